"""Pictures on fixed seeds, with few and more steps, scored by every reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from diffrl.judge import Decode
from diffrl.policy import UNetPolicy
from diffrl.scoring import ScoredBy, checked, finite_or_nan
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
    drop: bool = False,
) -> Evaluation:
    """Draw `settings.images` pictures per number of steps, always with the same noise.

    The recipe's own sampler draws, with the number of steps and eta of the evaluation. The picture
    is the clean state that the last step predicts: what is left out is its noise. With `drop`,
    pictures without a finite score are left out of the means.
    """
    text = [prompts[i % len(prompts)] for i in range(settings.images)]
    check = finite_or_nan if drop else checked
    scores: dict[str, float] = {}
    shown = []
    with torch.no_grad():
        for steps in settings.steps:
            rng = torch.Generator().manual_seed(settings.seed)
            drawing = sampler.for_evaluation(steps, settings.eta)
            columns: dict[str, list[Tensor]] = {r.name: [] for r in rewards}
            pictures, kept = [], []
            for start in range(0, len(text), batch):
                part = text[start : start + batch]
                images = decode(draw(policy, drawing, part, rng))
                for reward in (r for r in rewards if not r.groupwise):
                    columns[reward.name].append(check(reward, images, part).cpu() * reward.scale)
                pictures.append(images[: max(0, settings.shown - start)].float().cpu())
                kept += [images] if any(r.groupwise for r in rewards) else []
            for reward in (r for r in rewards if r.groupwise):
                columns[reward.name] = _compared(check, reward, torch.cat(kept), text)
            shown.append(torch.cat(pictures))
            for name, parts in columns.items():
                mean = torch.cat(parts).nanmean()
                if bool(mean.isfinite()):
                    scores[f"eval/{name}/{steps}-step"] = float(mean)
    return Evaluation(scores, torch.stack(shown), tuple(text[: settings.shown]))


def _compared(
    check: Callable[..., Tensor], reward: ScoredBy, images: Tensor, text: Sequence[str]
) -> list[Tensor]:
    """Return the scores of a reward that sees all pictures of a prompt at once."""
    found = []
    for prompt in dict.fromkeys(text):
        rows = [i for i, one in enumerate(text) if one == prompt]
        found.append(check(reward, images[rows], [prompt] * len(rows)).cpu() * reward.scale)
    return found


def draw(
    policy: UNetPolicy, sampler: Sampler, text: Sequence[str], rng: Generator
) -> Float[Tensor, "b *latent"]:
    """Return the clean latents that the sampler's last step predicts."""
    rollout = sampler(policy, text, rng)
    if rollout.path is None or rollout.path.x0_hat is None:
        return rollout.x0
    return rollout.path.x0_hat[:, -1]
