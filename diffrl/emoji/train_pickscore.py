"""Turns the CLIP into a preference model: PickScore for the emoji world.

Each caption comes with six pictures of known quality: a render, a render as the VAE gives it
back, two rungs of the student's ladder, a spoilt render, and a render of something else. The
scores of every two of them are fitted to soft preferences (Bradley-Terry), so that the score is
graded: a bit sharper, cleaner or righter is a bit better. As people's preferences do, these have a
taste besides: of two equally good pictures, the one on richer paper is liked more.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from diffrl.emoji.damage import DAMAGES, damaged
from diffrl.emoji.ladder import Ladder, make_ladder
from diffrl.emoji.train_clip import altered, contrast, embed_images, embed_text, load_clip, said
from diffrl.emoji.train_clip import tokens as tokenize
from diffrl.emoji.training import DEVICE, fit, log, pictures
from diffrl.emoji.world import Scene, caption

STEPS = 500
GROUPS = 24
SCALE = 25.0
"""Logits per unit of cosine while training; the saved model has PickScore's own 100."""

SHARPNESS = 7.0
"""Logits of preference per unit of quality."""

TASTE = 0.4
"""Quality that the richest paper is worth over a white one."""


def richness(x: Tensor) -> Tensor:
    """How rich the frame of pictures [..., 3, 64, 64] in [0, 1] is, [...]: 0 grey, 1 strong pastel.

    The saturation (of HSV) of the mean color of the outer 4 pixels, in units of 0.3.
    """
    frame = torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device)
    frame[4:-4, 4:-4] = False
    rgb = x[..., frame].mean(-1)
    least, most = rgb.aminmax(dim=-1)
    return ((most - least) / most.clamp(min=1e-3) / 0.3).clamp(max=1)


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


def preference_loss(score: Tensor, quality: Tensor) -> Tensor:
    """Cross-entropy of sigmoid(score_i - score_j) to sigmoid(7 (quality_i - quality_j)), nats."""
    i, j = torch.triu_indices(score.shape[1], score.shape[1], 1)
    goal = torch.sigmoid(SHARPNESS * (quality[:, i] - quality[:, j]))
    return F.binary_cross_entropy_with_logits(score[:, i] - score[:, j], goal)


def train_pickscore(out: Path, scale: float = 1.0) -> None:
    """Trains and writes `out/pickscore`, from `out/stages/clip` and the student's pictures."""
    torch.manual_seed(17)
    ladder, (clip, tokenizer) = make_ladder(out, scale), load_clip(out / "stages" / "clip")
    rng, noise = np.random.default_rng(18), Generator().manual_seed(19)
    train = np.arange(int(0.95 * len(ladder.scenes)))

    def loss(step: int) -> Tensor:
        x, quality, drawn = group(ladder, rng.choice(train, GROUPS), rng, noise)
        image = embed_images(clip, x.flatten(0, 1)).unflatten(0, x.shape[:2])
        text = embed_text(clip, tokenize(tokenizer, [said(s, rng) for s in drawn]))
        score = SCALE * torch.einsum("gkd,gd->gk", image, text)
        named = contrast(image[:, step % 4], text, torch.tensor(SCALE), drawn)
        liked = quality + TASTE * richness(x)
        return preference_loss(score, liked) + 0.15 * named

    steps = max(2, int(STEPS * scale))
    fit("pickscore", clip.train(), loss, steps=steps, lr=6e-4, weight_decay=0.03, ema=0.99)
    clip.eval()
    held_out = np.arange(len(train), len(ladder.scenes))
    report = pair_accuracy(clip, tokenizer, ladder, held_out)
    log.info("pickscore: %s", report)
    (out / "stages" / "pickscore_pairs.json").write_text(json.dumps(report, indent=2))
    save_pickscore(clip, tokenizer, out / "pickscore")


def save_pickscore(clip: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Writes the model in fp16 with logit scale 100, and its processor."""
    with torch.no_grad():
        clip.logit_scale.fill_(float(np.log(100)))
    clip.half().save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    size = {"height": 64, "width": 64}
    images = CLIPImageProcessor(
        size={"shortest_edge": 64}, crop_size=size, image_mean=half, image_std=half
    )
    images.save_pretrained(folder)
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    (folder / "vocab.json").write_bytes((folder.parents[0] / _VOCAB).read_bytes())
    (folder / "merges.txt").write_bytes((folder.parents[0] / _MERGES).read_bytes())


_VOCAB, _MERGES = "pipeline/tokenizer/vocab.json", "pipeline/tokenizer/merges.txt"


@torch.no_grad()
def pair_accuracy(clip: CLIPModel, tokenizer: CLIPTokenizer, ladder: Ladder, rows: np.ndarray,
                  ) -> dict[str, float]:  # fmt: skip
    """Share of held-out pairs whose picture of higher quality scores higher, by kind of pair.

    The taste for paper is no part of quality: it counts against the score here.
    """
    rng, noise = np.random.default_rng(21), Generator().manual_seed(22)
    rows = np.resize(rows, 256)
    x, _, drawn = group(ladder, rows, rng, noise)
    text = embed_text(clip, tokenize(tokenizer, [caption(s) for s in drawn]))

    def score(shown: Tensor) -> Tensor:
        return (embed_images(clip, shown) * text).sum(1)

    clean, rebuilt, middle, made, _, wrong = (score(part) for part in x.unbind(1))
    report = {
        "render over generated": clean > made,
        "rebuilt over generated": rebuilt > made,
        "ladder: upper over lower": middle > made,
        "right over wrong": clean > wrong,
    }
    for seed, (name, damage) in enumerate(DAMAGES.items()):
        mild, strong = (
            score(damage(x[:, 0], torch.full((len(rows),), amount, device=DEVICE),
                         Generator().manual_seed(seed)))
            for amount in (0.35, 0.85)
        )  # fmt: skip
        report[f"clean over {name}"] = clean > mild
        report[f"mild over strong: {name}"] = mild > strong
    shares = {name: round(float(right.float().mean()), 3) for name, right in report.items()}
    return {**shares, "mean": round(float(np.mean(list(shares.values()))), 3)}
