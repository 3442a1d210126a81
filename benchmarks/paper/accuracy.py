"""Tables II and III: how near predicted dense rewards come to those of every step."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from diffrl_sdpo import SDPO, Anchors

from benchmarks.paper.experiments import REWARDS
from diffrl.settings.resolve import resolve
from diffrl.tensors import Tensor
from diffrl.trainer.ranks import accelerator
from diffrl.trainer.session import build, preflight

STEPS = 50
PREDICTORS = {
    "3 queries, adaptive anchor": Anchors(),
    "3 queries, random anchor": Anchors(anchor="random"),
    "3 queries, fixed anchor": Anchors(anchor="fixed"),
    "2 queries, similarity": Anchors(query="first-last"),
    "2 queries, interpolation": Anchors(query="first-last", spread="linear"),
    "1 query, copied": Anchors(query="last"),
}


def measured(rollouts: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return, by reward and predictor, cosine, L1 and L2 on trajectories of 50 steps."""
    return {reward: of_reward(reward, rollouts) for reward in REWARDS}


def of_reward(name: str, rollouts: int) -> dict[str, dict[str, float]]:
    """Return the figures of one reward, at the bundled model's own weights."""
    settings = resolve("sdpo", [name], sets=["eval.watch=[]"])
    sampler = SDPO.sampler.model_copy(update={"steps": STEPS, "group": 1})
    whole: list[Tensor] = []
    parts: dict[str, list[Tensor]] = {name: [] for name in PREDICTORS}
    rng = torch.Generator().manual_seed(7)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        session = build(
            settings, accelerator("cpu", "fp32"), Path(folder), preflight(settings, None)
        )
        for start in range(0, rollouts, 16):
            text = [session.prompts[i % len(session.prompts)] for i in range(start, start + 16)]
            rollout = sampler(session.policy, text, rng)
            whole.append(Anchors(query="every")(rollout, session.judge).value)
            for predictor, anchors in PREDICTORS.items():
                parts[predictor].append(anchors(rollout, session.judge).value)
    exact = torch.cat(whole)
    return {predictor: near(torch.cat(given), exact) for predictor, given in parts.items()}


def near(given: Tensor, exact: Tensor) -> dict[str, float]:
    """Return how near predicted rewards [n, T] are to exact ones, over trajectories.

    The cosine is that of each trajectory's rewards less their mean over its steps: 0 where nothing
    but a constant is predicted. L1 and L2 are mean and root mean square of the difference of the
    same, in standard deviations of the exact ones.
    """
    a, b = (v - v.mean(1, keepdim=True) for v in (given, exact))
    spread = b.square().mean().sqrt()
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=1, eps=1e-8)
    apart = (a - b) / spread
    return {
        "cosine": float(cosine.mean()),
        "cosine_error": float(cosine.std() / len(cosine) ** 0.5),
        "l1": float(apart.abs().mean()),
        "l2": float(apart.square().mean().sqrt()),
    }
