"""How closely a step's return follows what a trajectory gets in the end, for each reward predictor.

    python -m benchmarks.sdpo_returns [--pairs 256]

Pairs that share their initial noise are sampled in 8 steps at the bundled model's own weights, and
every step's predicted picture is scored by PickScore. For each predictor of dense rewards and each
trained step k, the two returns of a pair are subtracted from each other, and so are the scores of
its two finished pictures. Their correlation over pairs says how well the return at k, which decides
where the update goes, tells which of the two ends better. It was written after Fig. 5 of
docs/paper.md had been seen on one to three seeds, to ask one question: does training take off
earlier with predictors whose returns follow the end more closely?

Writes `benchmarks/results/sdpo_returns.json`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from diffrl_sdpo import SDPO, Anchors

from benchmarks.default_run import machine
from benchmarks.paper.accuracy import PREDICTORS
from diffrl.folder import environment
from diffrl.settings.resolve import resolve
from diffrl.tensors import Float, Tensor
from diffrl.trainer.preflight import preflight
from diffrl.trainer.ranks import accelerator
from diffrl.trainer.session import Session, build
from diffrl.types import Memory, Prompts, Rewards

STEPS, EVERY = 8, "every step queried"
PIECE = 16
"""Pairs that are sampled at once."""

RESULT = Path(__file__).parent / "results" / "sdpo_returns.json"


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    settings = resolve("sdpo", ["pickscore"], sets=[f"train.seed={options.seed}"])
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        prompts = preflight(settings, None)
        session = build(settings, accelerator("cpu", "fp32"), Path(folder), prompts)
        table = measured(session, options.pairs)
    for name, row in table.items():
        print(f"{name:28}", "  ".join(f"{value:+.2f}" for value in row))
    result = {
        "machine": machine(),
        "environment": {k: v for k, v in environment().items() if k != "command"},
        "seed": options.seed,
        "pairs": options.pairs,
        "correlation": table,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def measured(session: Session, pairs: int) -> dict[str, list[float]]:
    """Return, by predictor, the correlation at each trained step; the last is not trained."""
    rng = torch.Generator().manual_seed(session.settings.train.seed)
    sampler = SDPO.sampler.model_copy(update={"steps": STEPS})
    asked = {**PREDICTORS, EVERY: Anchors(query="every")}
    gaps: dict[str, list[Tensor]] = {}
    ends: list[Tensor] = []
    for _ in range(0, pairs, PIECE):
        at = torch.randint(len(session.prompts), (PIECE,), generator=rng)
        rollout = sampler(session.policy, [session.prompts[i] for i in at.tolist()], rng)
        rewards = {name: one(rollout, session.judge) for name, one in asked.items()}
        session.judge.drain()
        ends.append(_gap(rewards[EVERY].value[:, -1:]))
        for name, given in rewards.items():
            gaps.setdefault(name, []).append(_gap(returns(given, rollout.prompts)))
    end = torch.cat(ends)[:, 0]
    found = {name: torch.cat(own) for name, own in gaps.items()}
    return {
        name: [round(_correlation(own[:, k], end), 4) for k in range(STEPS - 1)]
        for name, own in found.items()
    }


def returns(rewards: Rewards, prompts: Prompts) -> Float[Tensor, "n T"]:
    """Return the discounted returns that the recipe compares."""
    estimator = SDPO.advantage_estimator.model_copy(update={"per": "none"})
    return estimator(rewards, prompts, Memory())[0].value


def _gap(value: Float[Tensor, "n T"]) -> Float[Tensor, "p T"]:
    return value[::2] - value[1::2]


def _correlation(one: Float[Tensor, "p"], other: Float[Tensor, "p"]) -> float:
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])


if __name__ == "__main__":
    main()
