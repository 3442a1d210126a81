"""Pictures on fixed seeds, with few and more steps, scored by every reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from diffrl.judge import Decode, ScoredBy, checked
from diffrl.policy import UNetPolicy
from diffrl.settings import EvalSettings
from diffrl.stages import Sampler
from diffrl.tensors import Float, Generator, Tensor


@dataclass(frozen=True)
class Evaluation:
    """Mean scores by `eval/<reward>/<steps>-step`, and the first pictures of each kind."""

    scores: Mapping[str, float]
    images: Float[Tensor, "s b 3 h w"]
    prompts: tuple[str, ...]


def evaluate(
    policy: UNetPolicy,
    sampler: Sampler,
    decode: Decode,
    rewards: Sequence[ScoredBy],
    prompts: Sequence[str],
    settings: EvalSettings,
    batch: int,
) -> Evaluation:
    """Draw `settings.images` pictures per number of steps, always with the same noise.

    The recipe's own sampler draws, with the number of steps and eta of the evaluation. The picture
    is the clean state that the last step predicts: what is left out is its noise.
    """
    text = [prompts[i % len(prompts)] for i in range(settings.images)]
    scores: dict[str, float] = {}
    shown = []
    with torch.no_grad():
        for steps in settings.steps:
            rng = torch.Generator().manual_seed(settings.seed)
            drawing = sampler.for_evaluation(steps, settings.eta)
            columns: dict[str, list[Tensor]] = {r.name: [] for r in rewards}
            pictures = []
            for start in range(0, len(text), batch):
                part = text[start : start + batch]
                images = decode(draw(policy, drawing, part, rng))
                for reward in rewards:
                    columns[reward.name].append(checked(reward, images, part).cpu() * reward.scale)
                pictures.append(images[: max(0, settings.shown - start)].float().cpu())
            shown.append(torch.cat(pictures))
            for name, parts in columns.items():
                scores[f"eval/{name}/{steps}-step"] = float(torch.cat(parts).mean())
    return Evaluation(scores, torch.stack(shown), tuple(text[: settings.shown]))


def draw(
    policy: UNetPolicy, sampler: Sampler, text: Sequence[str], rng: Generator
) -> Float[Tensor, "b *latent"]:
    """Return the clean latents that the sampler's last step predicts."""
    rollout = sampler(policy, text, rng)
    if rollout.path is None or rollout.path.x0_hat is None:
        return rollout.x0
    return rollout.path.x0_hat[:, -1]
