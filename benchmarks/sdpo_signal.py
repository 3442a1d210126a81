"""How much of a policy gradient is signal, step by step: dense and terminal reward, T of 5 to 50.

    python -m benchmarks.sdpo_signal [--batches 64] [--lengths 5 8 10 20 50]

At the bundled model's own weights, pairs that share their initial noise are sampled and every
step's predicted picture is scored. Gradients of single steps are then taken with different
advantages at equal everything else:

- `sdpo`: the published dense rewards (three queries spread by similarity), γ = 0.99;
- `every`: the score of every step's own prediction, γ = 0.99;
- `after`: the same, without the score of step k itself, which the noise of step k cannot change;
- `terminal`: the score of the last prediction alone.

At the first step, both of a pair have the same prediction, so `every` and `after` differ by their
scale only. At the last step nothing that is scored depends on the noise: a check that measures 0.

Of B minibatches' gradients G_b, the squared norm of the expected gradient is estimated without bias
by (|sum G_b|² - sum |G_b|²) / (B (B - 1)), and that of its noise in one minibatch by the rest of
the mean |G_b|². The signal-to-noise ratio is their quotient, with a jackknife's standard error.
Writes `benchmarks/results/sdpo_signal.json`, each length as it is measured; of other lengths it
keeps what is there, and of which weights, so that they can be measured one after the other.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from diffrl_sdpo import SDPO, Anchors

from benchmarks.default_run import machine
from benchmarks.paper.records import weights
from diffrl.builtin.reward_predictors import Terminal
from diffrl.folder import environment
from diffrl.settings.resolve import resolve
from diffrl.tensors import Generator, Tensor
from diffrl.trainer.preflight import preflight
from diffrl.trainer.ranks import accelerator
from diffrl.trainer.session import Session, build
from diffrl.types import Advantages, Memory, Minibatch, Rewards, Rollout, gather

PAIRS = 8
WARM = 96
"""Pairs whose returns the statistics know before."""

MOST = 4
"""Steps of a trajectory whose gradients are taken, spread evenly; always the first and the last."""

RESULT = Path(__file__).parent / "results" / "sdpo_signal.json"


def main() -> None:
    """Measure every length, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=64)
    parser.add_argument("--lengths", type=int, nargs="+", default=[5, 8, 10, 20, 50])
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    settings = resolve("sdpo", ["pickscore"], sets=[f"train.seed={options.seed}"])
    with tempfile.TemporaryDirectory() as folder:
        prompts = preflight(settings, None)
        session = build(settings, accelerator("cpu", "fp32"), Path(folder), prompts)
        for steps in options.lengths:
            rows = measured(session, steps, options.batches)
            keep(steps, options.seed, options.batches, rows)
            for step, row in rows.items():
                shown = (f"{n} {v['snr']:.3f} ± {v['snr_error']:.3f}" for n, v in row.items())
                norm = row["sdpo"]["norm"]
                print(f"T={steps} step {step}: |G| {norm:.1e}  ", "  ".join(shown), flush=True)


def keep(steps: int, seed: int, batches: int, rows: dict[str, dict[str, dict[str, float]]]) -> None:
    """Write what was measured of a length beside the others."""
    kept = json.loads(RESULT.read_text("utf-8")) if RESULT.exists() else {}
    kept[str(steps)] = {
        "weights": weights(),
        "machine": machine(),
        "environment": {k: v for k, v in environment().items() if k != "command"},
        "seed": seed,
        "pairs_a_minibatch": PAIRS,
        "minibatches": batches,
        "steps": rows,
    }
    ordered = {length: kept[length] for length in sorted(kept, key=int)}
    RESULT.write_text(json.dumps(ordered, indent=1) + "\n", "utf-8")


def measured(session: Session, steps: int, batches: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return, by step and variant, the norm and the signal-to-noise ratio of the gradient."""
    rng = torch.Generator().manual_seed(session.settings.train.seed)
    most = min(MOST, steps)
    chosen = sorted({round(i * (steps - 1) / (most - 1)) for i in range(most)})
    memories: dict[str, Memory] = {}
    for _ in range(WARM // PAIRS):
        rollout = drawn(session, steps, rng)
        for name, rewards in scored(session, rollout).items():
            memory = memories.get(name, Memory())
            memories[name] = SDPO.advantage_estimator(rewards, rollout.prompts, memory)[1]
    found: dict[tuple[int, str], list[Tensor]] = {}
    for _ in range(batches):
        rollout = drawn(session, steps, rng)
        advantages = {
            name: SDPO.advantage_estimator(rewards, rollout.prompts, memories[name])[0]
            for name, rewards in scored(session, rollout).items()
        }
        for step in chosen:
            for name, gradient in gradients(session, rollout, advantages, step).items():
                found.setdefault((step, name), []).append(gradient)
    return {
        str(step): {name: ratio(torch.stack(found[step, name])) for name in memories}
        for step in chosen
    }


def drawn(session: Session, steps: int, rng: Generator) -> Rollout:
    """Return pairs of random prompts."""
    sampler = SDPO.sampler.model_copy(update={"steps": steps})
    at = torch.randint(len(session.prompts), (PAIRS,), generator=rng)
    with torch.no_grad():
        return sampler(session.policy, [session.prompts[i] for i in at.tolist()], rng)


def scored(session: Session, rollout: Rollout) -> dict[str, Rewards]:
    """Return the rewards of each variant."""
    every = Anchors(query="every")(rollout, session.judge)
    later = torch.cat([every.value[:, 1:], torch.zeros_like(every.value[:, :1])], 1)
    found = {
        "sdpo": Anchors()(rollout, session.judge),
        "every": every,
        "after": Rewards(later),
        "terminal": Terminal(decode="predicted")(rollout, session.judge),
    }
    session.judge.drain()
    return found


def gradients(
    session: Session, rollout: Rollout, advantages: Mapping[str, Advantages], step: int
) -> dict[str, Tensor]:
    """Return each variant's gradient of one step: that of (A_a - A_b)(log p_a - log p_b)."""
    trained = list(session.policy.trained.values())
    rows = torch.arange(len(rollout)).reshape(-1, 2)
    steps = torch.full((len(rows), 1), step)
    batches = {n: gather(rollout, a, Minibatch(rows, steps)) for n, a in advantages.items()}
    log_prob = session.policy.log_prob(next(iter(batches.values())))
    found = {}
    for name, batch in batches.items():
        gap = (batch.advantage[:, 0] - batch.advantage[:, 1]).clamp(-10, 10)
        value = (gap * (log_prob[:, 0] - log_prob[:, 1])).mean()
        parts = torch.autograd.grad(value, trained, retain_graph=True)
        found[name] = torch.cat([part.flatten() for part in parts])
    return found


def ratio(gradients: Tensor) -> dict[str, float]:
    """Return the norm and signal-to-noise ratio of minibatch gradients [B, p], with its error."""
    inner = gradients.double() @ gradients.double().T
    whole = _ratio(inner)
    count = len(inner)
    left_out = [[i for i in range(count) if i != b] for b in range(count)]
    each = torch.tensor([_ratio(inner[rows][:, rows]) for rows in left_out])
    error = ((count - 1) / count * (each - each.mean()).square().sum()).sqrt()
    return {
        "norm": float(inner.diagonal().mean().sqrt()),
        "snr": whole,
        "snr_error": float(error),
    }


def _ratio(inner: Tensor) -> float:
    count, own = len(inner), float(inner.diagonal().sum())
    signal = (float(inner.sum()) - own) / (count * (count - 1))
    noise = own / count - signal
    return signal / noise if noise > 0 else 0.0


if __name__ == "__main__":
    main()
