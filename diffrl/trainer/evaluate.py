"""Pictures on fixed seeds, with few and more steps, scored by every reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from diffrl.judge import Decode
from diffrl.measures import PICTURE, diversity, pixel_distance
from diffrl.policy import UNetPolicy
from diffrl.scoring import ScoredBy, checked, finite_or_nan
from diffrl.settings import EvalSettings
from diffrl.stages import Sampler
from diffrl.tensors import Float, Generator, Tensor

THUMBNAIL = 64
"""Side at which the pictures of a prompt are compared with each other, in pixels."""


@dataclass(frozen=True)
class Evaluation:
    """Pictures on fixed noise and what was found of them.

    Args:
        scores: means by `eval/<reward>/<steps>-step`, and by `picture/<measure>/<steps>-step`.
        each: the same of every picture, nan where there is none.
        text: the prompt of every picture.
        images: the first pictures for each number of steps.
    """

    scores: Mapping[str, float]
    each: Mapping[str, Float[Tensor, "b"]]
    text: tuple[str, ...]
    images: Float[Tensor, "s shown 3 h w"]

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts of `images`."""
        return self.text[: self.images.shape[1]]


def evaluate(
    policy: UNetPolicy,
    sampler: Sampler,
    decode: Decode,
    rewards: Sequence[ScoredBy],
    prompts: Sequence[str],
    settings: EvalSettings,
    batch: int,
    drop: bool = False,
) -> Evaluation:
    """Draw `settings.images` pictures per number of steps, always with the same noise.

    The recipe's own sampler draws, with the number of steps and eta of the evaluation. The picture
    is the clean state that the last step predicts: what is left out is its noise. With `drop`,
    pictures without a finite score are left out of the means.
    """
    text = [prompts[i % len(prompts)] for i in range(settings.images)]
    scores: dict[str, float] = {}
    each: dict[str, Tensor] = {}
    shown = []
    with torch.no_grad():
        for steps in settings.steps:
            rng = torch.Generator().manual_seed(settings.seed)
            drawing = sampler.for_evaluation(steps, settings.eta)
            seen = Seen(rewards, text, finite_or_nan if drop else checked)
            pictures = []
            for start in range(0, len(text), batch):
                images = decode(draw(policy, drawing, text[start : start + batch], rng))
                seen.add(images)
                pictures.append(images[: max(0, settings.shown - start)].float().cpu())
            shown.append(torch.cat(pictures))
            for name, found in seen.found().items():
                each[f"{name}/{steps}-step"] = found
                if bool((mean := found.nanmean()).isfinite()):
                    scores[f"{name}/{steps}-step"] = float(mean)
            scores |= {f"{k}/{steps}-step": v for k, v in seen.spread().items()}
    return Evaluation(scores, each, tuple(text), torch.stack(shown))


class Seen:
    """What rewards and measures say of pictures that come in pieces."""

    def __init__(
        self, rewards: Sequence[ScoredBy], text: Sequence[str], check: Callable[..., Tensor]
    ) -> None:
        self._rewards, self._text, self._check = rewards, text, check
        self._columns: dict[str, list[Tensor]] = {}
        self._kept: list[Tensor] = []
        self._small: list[Tensor] = []
        self._count = 0

    def add(self, images: Float[Tensor, "b 3 h w"]) -> None:
        """Score the next pictures."""
        text = self._text[self._count : self._count + len(images)]
        self._count += len(images)
        for reward in (r for r in self._rewards if not r.groupwise):
            self._add(f"eval/{reward.name}", self._check(reward, images, text) * reward.scale)
        for name, measure in PICTURE.items():
            self._add(f"picture/{name}", measure(images))
        self._kept += [images] if any(r.groupwise for r in self._rewards) else []
        self._small.append(functional.adaptive_avg_pool2d(images.float(), THUMBNAIL).cpu())

    def found(self) -> dict[str, Float[Tensor, "b"]]:
        """Return the scores and measures of every picture, in the order of the rewards."""
        for reward in (r for r in self._rewards if r.groupwise):
            images = torch.cat(self._kept)
            self._columns[f"eval/{reward.name}"] = _compared(
                self._check, reward, images, self._text
            )
        found = {name: torch.cat(parts) for name, parts in self._columns.items()}
        order = [f"eval/{r.name}" for r in self._rewards] + [f"picture/{n}" for n in PICTURE]
        return {name: found[name] for name in order}

    def spread(self) -> dict[str, float]:
        """Return how far pictures of one prompt are apart, if there is a prompt with several."""
        own = diversity(torch.cat(self._small), self._text, pixel_distance)
        return {"picture/diversity": sum(own.values()) / len(own)} if own else {}

    def _add(self, name: str, value: Tensor) -> None:
        self._columns.setdefault(name, []).append(value.float().cpu())


def _compared(
    check: Callable[..., Tensor], reward: ScoredBy, images: Tensor, text: Sequence[str]
) -> list[Tensor]:
    """Return the scores of a reward that sees all pictures of a prompt at once."""
    found = torch.empty(len(text))
    for prompt in dict.fromkeys(text):
        rows = [i for i, one in enumerate(text) if one == prompt]
        found[rows] = check(reward, images[rows], [prompt] * len(rows)).float().cpu() * reward.scale
    return [found]


def draw(
    policy: UNetPolicy, sampler: Sampler, text: Sequence[str], rng: Generator
) -> Float[Tensor, "b *latent"]:
    """Return the clean latents that the sampler's last step predicts."""
    rollout = sampler(policy, text, rng)
    if rollout.path is None or rollout.path.x0_hat is None:
        return rollout.x0
    return rollout.path.x0_hat[:, -1]
