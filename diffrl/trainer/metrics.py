"""From what an epoch left behind to its line of metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from diffrl.scoring import ScoredBy
from diffrl.tensors import Tensor
from diffrl.trainer.loop import Tally
from diffrl.trainer.ranks import Ranks


def summarise(
    tally: Tally, ranks: Ranks, rewards: tuple[ScoredBy, ...], drops: bool = False
) -> dict[str, float]:
    """Return the metrics of one epoch over all processes, timings included."""
    metrics = reward_metrics(tally, ranks, rewards)
    own = loss_metrics(tally)
    advantage = tally.advantages.value
    own["advantage/abs_mean"] = float(advantage.abs().mean())
    own["advantage/std"] = float(advantage.std()) if advantage.numel() > 1 else 0.0
    gap = tally.gap
    if gap is not None:
        own["log_prob_gap/max"] = float(gap.max())
        own["log_prob_gap/p99"] = float(torch.quantile(gap.float(), 0.99))
    metrics.update(mean_over_ranks(own, ranks))
    seconds = {k: v for k, v in tally.seconds.items() if k != "observe"}
    metrics.update({f"seconds/{k}": v for k, v in seconds.items()})
    if drops:
        metrics["dropped"] = float(sum(ranks.everyones([tally.dropped])))
    if tally.compiling:
        metrics["seconds/compile"] = tally.compiling
    taken = max(sum(tally.seconds.values()) - tally.compiling, 1e-9)
    metrics["samples_per_second"] = ranks.count * (len(tally.rollout) + tally.dropped) / taken
    return metrics


def reward_metrics(tally: Tally, ranks: Ranks, rewards: tuple[ScoredBy, ...]) -> dict[str, float]:
    """Return mean and std of each reward, at the first and the last step, in its printed unit."""
    last = tally.rewards.value.shape[1] - 1
    metrics = {"reward_queries": float(sum(ranks.everyones([tally.ledger.queries])))}
    if not metrics["reward_queries"]:
        return metrics
    steps, columns = tally.ledger.columns()
    for reward in rewards:
        pairs = torch.tensor(
            ranks.everyones(list(zip(steps.tolist(), columns[reward.name].tolist(), strict=True)))
        )
        own = f"reward/{reward.name}"
        for k in dict.fromkeys((0, last)):
            chosen = pairs[(pairs[:, 0] == k) & pairs[:, 1].isfinite(), 1] * reward.scale
            if len(chosen):
                metrics[f"{own}/step_{k}"] = float(chosen.mean())
                metrics[f"{own}/step_{k}_std"] = float(chosen.std(correction=0))
        if f"{own}/step_{last}" in metrics:
            metrics[f"{own}/mean"] = metrics[f"{own}/step_{last}"]
            metrics[f"{own}/std"] = metrics[f"{own}/step_{last}_std"]
    return metrics


def loss_metrics(tally: Tally) -> dict[str, float]:
    """Return the weighted mean of what each loss call reported, and the gradient norm.

    Steps whose gradient is not finite are skipped, and counted apart, as are losses.
    """
    if not tally.losses:
        return {}
    weights = torch.tensor([w for w, _ in tally.losses])
    names = list(tally.losses[0][1])
    rows = torch.stack([_stack(m, names) for _, m in tally.losses]).float().cpu()
    good = rows.isfinite().all(1)
    rows, weights, out = rows[good], weights[good], {}
    if len(rows):
        mean, worst = (rows * weights[:, None]).sum(0) / weights.sum(), rows.amax(0)
        for i, n in enumerate(names):
            out[f"loss/{n}"] = float(worst[i] if n.endswith("_max") else mean[i])
    if tally.grad_norms:
        norms = torch.stack(tally.grad_norms).float().cpu()
        made = norms[norms.isfinite()]
        out["updates"] = float(len(made))
        if len(made) < len(norms):
            out["skipped"] = float(len(norms) - len(made))
        if len(made):
            out["grad_norm"] = float(made.mean())
    return out


def mean_over_ranks(metrics: Mapping[str, float], ranks: Ranks) -> dict[str, float]:
    """Return each metric's mean over processes; of `max` metrics the largest."""
    if ranks.count == 1:
        return dict(metrics)
    every: list[dict[str, Any]] = ranks.everyones([dict(metrics)])
    return {
        k: max(m[k] for m in every) if k.endswith("max") else sum(m[k] for m in every) / len(every)
        for k in metrics
    }


def _stack(metrics: Mapping[str, Tensor], names: list[str]) -> Tensor:
    return torch.stack([metrics[n].detach() for n in names])
