"""Pictures whose order of merit is known, for the rewards that learn from preferences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from diffrl.emoji.damage import DAMAGES, damaged
from diffrl.emoji.ladder import Ladder, make_ladder
from diffrl.emoji.train_clip import altered
from diffrl.emoji.training import DEVICE, pictures
from diffrl.emoji.world import Scene, caption

PASSES = 2
"""Groups of pictures made for each scene of the ladder."""

HELD_OUT = 0.05

Score = Callable[[Tensor, list[str]], Tensor]
"""Pictures [n, 3, 64, 64] in [0, 1] and their captions to scores [n]."""


@dataclass
class Judged:
    """Groups of six pictures of one caption: uint8 [n, 6, 3, 64, 64] and their quality [n, 6].

    A render, a render as the VAE gives it back, two rungs of the student's ladder, a spoilt render,
    and a render of something else.
    """

    pictures: Tensor
    quality: Tensor
    scenes: list[Scene]

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, list[Scene]]:
        """Some groups: pictures in [0, 1] on `DEVICE`, qualities and scenes.

        Each has two pictures more: the render spoilt anew in one way, more and less.
        """
        rows = rng.choice(len(self.scenes), count)
        at = torch.from_numpy(rows)
        x, quality = self.pictures[at].to(DEVICE).float() / 255, self.quality[at].to(DEVICE)
        less = torch.from_numpy(rng.uniform(0, 0.6, count)).float().to(DEVICE)
        more = less + torch.from_numpy(rng.uniform(0.2, 0.4, count)).float().to(DEVICE)
        damage = list(DAMAGES.values())[rng.integers(len(DAMAGES))]
        noise = Generator().manual_seed(int(rng.integers(2**31)))
        with torch.autocast(DEVICE, enabled=False):
            spoilt = [damage(x[:, 0], strength, noise) for strength in (less, more)]
        graded = [0.85 - 0.75 * strength for strength in (less, more)]
        x = torch.cat([x, torch.stack(spoilt, 1)], 1)
        return x, torch.cat([quality, torch.stack(graded, 1)], 1), [self.scenes[i] for i in rows]


def group(ladder: Ladder, rows: np.ndarray, rng: np.random.Generator, noise: Generator,
          ) -> tuple[Tensor, Tensor, list[Scene]]:  # fmt: skip
    """Six pictures per scene [g, 6, 3, 64, 64], their qualities [g, 6], and the scenes."""
    drawn = [ladder.scenes[i] for i in rows]
    clean, wrong = pictures(drawn, rng), pictures([altered(s, rng) for s in drawn], rng)
    strength = torch.rand(len(rows), generator=noise).to(DEVICE)
    spoilt = damaged(pictures(drawn, rng), strength, noise)
    middle = torch.from_numpy(rng.integers(1, ladder.pictures.shape[1] - 1, size=len(rows)))
    index = torch.from_numpy(rows)
    rungs = [(index, torch.full_like(index, -1)), (index, middle), (index, 0 * index)]
    climbed = [ladder.pictures[pick].to(DEVICE).float() / 255 for pick in rungs]
    graded = [ladder.quality[pick].to(DEVICE) for pick in rungs]
    one = torch.ones_like(strength)
    quality = torch.stack([one, *graded, 0.85 - 0.75 * strength, -0.2 * one], 1)
    return torch.stack([clean, *climbed, spoilt, wrong], 1), quality, drawn


def judged(out: Path, scale: float, seed: int) -> tuple[Judged, Ladder, np.ndarray]:
    """Groups to train on, the ladder, and those of its rows that are kept for the end."""
    ladder = make_ladder(out, 0.5 * scale, seed=seed)
    count = int((1 - HELD_OUT) * len(ladder.scenes))
    rng, noise = np.random.default_rng(seed + 1), Generator().manual_seed(seed + 2)
    shown, qualities, scenes = [], [], []
    for start in [i for _ in range(PASSES) for i in range(0, count, 64)]:
        x, quality, drawn = group(ladder, np.arange(start, min(start + 64, count)), rng, noise)
        shown.append((x * 255).round().byte().cpu())
        qualities.append(quality.cpu())
        scenes += drawn
    made = Judged(torch.cat(shown), torch.cat(qualities), scenes)
    return made, ladder, np.arange(count, len(ladder.scenes))


@torch.no_grad()
def pair_accuracy(score: Score, ladder: Ladder, rows: np.ndarray) -> dict[str, float]:
    """Share of held-out pairs whose picture of higher quality scores higher, by kind of pair.

    A taste beside quality is no part of it: it counts against the score here.
    """
    rng, noise = np.random.default_rng(21), Generator().manual_seed(22)
    rows = np.resize(rows, 256)
    x, _, drawn = group(ladder, rows, rng, noise)
    texts = [caption(s) for s in drawn]
    others = [caption(altered(s, rng)) for s in drawn]
    clean, rebuilt, middle, made, _, wrong = (score(part, texts) for part in x.unbind(1))
    report = {
        "render over generated": clean > made,
        "rebuilt over generated": rebuilt > made,
        "ladder: upper over lower": middle > made,
        "right over wrong": clean > wrong,
        "caption over another": clean > score(x[:, 0], others),
    }
    for seed, (name, damage) in enumerate(DAMAGES.items()):
        mild, strong = (
            score(damage(x[:, 0], torch.full((len(rows),), amount, device=DEVICE),
                         Generator().manual_seed(seed)), texts)
            for amount in (0.35, 0.85)
        )  # fmt: skip
        report[f"clean over {name}"] = clean > mild
        report[f"mild over strong: {name}"] = mild > strong
    shares = {name: round(float(right.float().mean()), 3) for name, right in report.items()}
    return {**shares, "mean": round(float(np.mean(list(shares.values()))), 3)}
