"""Pictures on fixed seeds, with few and more steps, scored by every reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from diffrl.judge import Decode, ScoredBy, checked
from diffrl.policy import UNetPolicy
from diffrl.settings import EvalSettings
from diffrl.tensors import Float, Generator, Tensor


@dataclass(frozen=True)
class Evaluation:
    """Mean scores by `eval/<reward>/<steps>-step`, and the first pictures of each kind."""

    scores: Mapping[str, float]
    images: Float[Tensor, "s b 3 h w"]
    prompts: tuple[str, ...]


def evaluate(
    policy: UNetPolicy,
    decode: Decode,
    rewards: Sequence[ScoredBy],
    prompts: Sequence[str],
    settings: EvalSettings,
    batch: int,
) -> Evaluation:
    """Draw `settings.images` pictures per number of steps, always with the same noise.

    The picture is the clean state that the last step predicts: what is left out is its noise.
    """
    text = [prompts[i % len(prompts)] for i in range(settings.images)]
    scores: dict[str, float] = {}
    shown = []
    with torch.no_grad():
        for steps in settings.steps:
            rng = torch.Generator().manual_seed(settings.seed)
            columns: dict[str, list[Tensor]] = {r.name: [] for r in rewards}
            pictures = []
            for start in range(0, len(text), batch):
                part = text[start : start + batch]
                images = decode(draw(policy, part, steps, settings.eta, rng))
                for reward in rewards:
                    columns[reward.name].append(checked(reward, images, part).cpu() * reward.scale)
                pictures.append(images[: max(0, settings.shown - start)].float().cpu())
            shown.append(torch.cat(pictures))
            for name, parts in columns.items():
                scores[f"eval/{name}/{steps}-step"] = float(torch.cat(parts).mean())
    return Evaluation(scores, torch.stack(shown), tuple(text[: settings.shown]))


def draw(
    policy: UNetPolicy, text: Sequence[str], steps: int, eta: float, rng: Generator
) -> Float[Tensor, "b *latent"]:
    """Return the clean latents that the last of `steps` stochastic DDIM steps predicts."""
    prompts, kernel = policy.prompts(text), policy.ddim(steps, eta)
    x = policy.normal((len(text),), rng)
    x0_hat = x
    for t in policy.timesteps(steps):
        at = t.expand(len(text))
        step = kernel.transition(policy.predict(x, at, prompts.cond), at, x)
        x = step.mean + step.std * policy.normal((len(text),), rng)
        x0_hat = step.x0_hat
    return x0_hat
