"""Pictures on fixed seeds, with few and more steps, scored by every reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from diffrl.judge import Decode
from diffrl.measures import diversity, pixel_distances
from diffrl.policy import UNetPolicy
from diffrl.scoring import ScoredBy
from diffrl.settings import EvalSettings
from diffrl.speed.fitting import Pieces
from diffrl.speed.heard import Heard
from diffrl.stages import Sampler
from diffrl.streams import Streams
from diffrl.tensors import Float, Tensor
from diffrl.trainer.divergence import Moved
from diffrl.trainer.fitted import sampled
from diffrl.trainer.look import Look
from diffrl.types import Rollout


@dataclass(frozen=True)
class Evaluation:
    """Pictures on fixed noise and what was found of them.

    Args:
        scores: means by `eval/<reward>/<steps>-step`, and by `picture/<measure>/<steps>-step`.
        each: the same of every picture, nan where there is none.
        text: the prompt of every picture.
        lower_is_better: names of the rewards of which less is more.
        images: the first pictures for each number of steps.
        by_prompt: diversity, for each prompt with several pictures.
        groupwise: names of the rewards whose scores are of one model alone.
    """

    scores: Mapping[str, float]
    each: Mapping[str, Float[Tensor, "b"]]
    text: tuple[str, ...]
    images: Float[Tensor, "s shown 3 h w"]
    lower_is_better: tuple[str, ...] = ()
    by_prompt: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    groupwise: tuple[str, ...] = ()

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
    pieces: Pieces,
    drop: bool = False,
    exact: bool = False,
    meet: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Evaluation:
    """Draw `settings.images` pictures per number of steps, always with the same noise.

    Every picture has noise of its own, whatever fits into a piece. The recipe's own sampler draws,
    with the number of steps and eta of the evaluation. The picture is the clean state that the last
    step predicts: what is left out is its noise. With `drop`, pictures without a finite score are
    left out of the means. Where the network is `exact`, which rounds alike in batches of any
    size, nothing is predicted twice. Pieces are looked at within `meet`, whose end may raise.
    """
    text = [prompts[i % len(prompts)] for i in range(settings.images)]
    scores: dict[str, float] = {}
    each: dict[str, Tensor] = {}
    by_prompt: dict[str, dict[str, float]] = {}
    shown, heard = [], Heard(settings.shown) if exact else None
    for steps in settings.steps:
        look, moved = Look(rewards, text, drop), Moved(policy, settings.shown)
        drawing = sampler.for_evaluation(steps, settings.eta)
        rng = Streams(range(settings.seed, settings.seed + settings.images))
        pictures: list[Tensor] = []
        with torch.no_grad(), policy.heard_by(heard):
            for rollout in sampled(drawing, policy, text, rng, pieces.sample):
                moved.add(rollout)
                if heard is not None:
                    heard.forget()
                with meet():
                    pictures += _seen(clean(rollout), decode, look, pieces, settings.shown)
            shown.append(torch.cat(pictures)[: settings.shown])
            with meet():
                every = named(look)
        for name, found in every.items():
            each[f"{name}/{steps}-step"] = found
            if bool((mean := found.nanmean()).isfinite()):
                scores[f"{name}/{steps}-step"] = float(mean)
        if (kl := moved.mean) is not None:
            scores[f"kl/{steps}-step"] = kl
        if apart := diversity(look.small, text, pixel_distances):
            key = f"picture/diversity/{steps}-step"
            by_prompt[key], scores[key] = apart, sum(apart.values()) / len(apart)
    lower = tuple(r.name for r in rewards if not r.higher_is_better)
    alone = tuple(r.name for r in rewards if r.groupwise)
    return Evaluation(scores, each, tuple(text), torch.stack(shown), lower, by_prompt, alone)


def _seen(
    latents: Float[Tensor, "b *latent"], decode: Decode, look: Look, pieces: Pieces, most: int
) -> list[Tensor]:
    """Look at every picture, and return the first ones of each piece that was decoded."""

    def attempt(at: slice) -> Tensor:
        images = decode(latents[at])
        look.add(images)
        return images[:most].float().cpu()

    return list(pieces.decode.over(len(latents), attempt))


def named(look: Look) -> dict[str, Float[Tensor, "n"]]:
    """Return what was found of every picture, by the beginning of its key in metrics."""
    scores = {f"eval/{name}": found for name, found in look.scores().items()}
    return scores | {f"picture/{name}": found for name, found in look.measures().items()}


def clean(rollout: Rollout) -> Float[Tensor, "b *latent"]:
    """Return the clean latents that the last step of a rollout predicts, or ends at.

    A sampler without a path, as `ode`, has the last state alone, with what noise is left in it.
    """
    if rollout.path is None or rollout.path.x0_hat is None:
        return rollout.x0
    return rollout.path.x0_hat[:, -1]
