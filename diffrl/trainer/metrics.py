"""From what an epoch left behind to its line of metrics."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from diffrl.scoring import ScoredBy
from diffrl.tensors import Tensor
from diffrl.trainer.ranks import Ranks
from diffrl.trainer.tally import Tally


def summarise(
    tally: Tally, ranks: Ranks, rewards: tuple[ScoredBy, ...], drops: bool = False
) -> dict[str, float]:
    """Return the metrics of one epoch over all processes, timings included."""
    metrics = reward_metrics(tally, ranks, rewards) | loss_metrics(tally, ranks)
    advantage, dropped = tally.everyone.value, tally.found.dropped
    metrics["advantage/abs_mean"] = float(advantage.abs().mean())
    metrics["advantage/std"] = float(advantage.std()) if advantage.numel() > 1 else 0.0
    gaps = ranks.everyones([] if tally.gap is None else [tally.gap.float().cpu()])
    if gaps:
        metrics["log_prob_gap/max"] = float(torch.cat(gaps).max())
        metrics["log_prob_gap/p99"] = float(torch.quantile(torch.cat(gaps), 0.99))
    own = [] if tally.moved is None or not tally.moved.numel() else [float(tally.moved.max())]
    if moved := ranks.everyones(own):
        metrics["log_prob_gap/sampling"] = max(moved)
    seconds = {k: v for k, v in tally.seconds.items() if k != "observe"}
    metrics.update({f"seconds/{k}": v for k, v in seconds.items()})
    if drops:
        metrics["dropped"] = float(dropped)
    if tally.compiling:
        metrics["seconds/compile"] = tally.compiling
    taken = max(sum(tally.seconds.values()) - tally.compiling, 1e-9)
    metrics["samples_per_second"] = (len(advantage) + dropped) / taken
    return metrics


def reward_metrics(tally: Tally, ranks: Ranks, rewards: tuple[ScoredBy, ...]) -> dict[str, float]:
    """Return mean and std of each reward, at the first and the last step, in its printed unit."""
    last = tally.everyone.value.shape[1] - 1
    queries = [int(n) for n in ranks.everyones([tally.ledger.queries])]
    metrics = {"reward_queries": float(sum(queries))}
    if not sum(queries):
        return metrics
    steps, columns = tally.ledger.columns()
    every = ranks.exchange.rows(steps, queries, "scores").cpu()
    for reward in rewards:
        scores = ranks.exchange.rows(columns[reward.name], queries, "scores").cpu()
        own = f"reward/{reward.name}"
        for k in dict.fromkeys((0, last)):
            chosen = scores[(every == k) & scores.isfinite()] * reward.scale
            if len(chosen):
                metrics[f"{own}/step_{k}"] = float(chosen.mean())
                metrics[f"{own}/step_{k}_std"] = float(chosen.std(correction=0))
        if f"{own}/step_{last}" in metrics:
            metrics[f"{own}/mean"] = metrics[f"{own}/step_{last}"]
            metrics[f"{own}/std"] = metrics[f"{own}/step_{last}_std"]
    return metrics


def loss_metrics(tally: Tally, ranks: Ranks) -> dict[str, float]:
    """Return the weighted mean of what each loss call reported, and the gradient norm.

    Steps whose gradient is not finite are skipped, and counted apart, as are losses.
    """
    sums, weight, worst = dict[str, float](), 0.0, dict[str, float]()
    for own, its_weight, its_worst in ranks.everyones([_sums(tally)]):
        weight += its_weight
        for name, value in own.items():
            sums[name] = sums.get(name, 0.0) + value
            worst[name] = max(worst.get(name, its_worst[name]), its_worst[name])
    out = {
        f"loss/{n}": worst[n] if n.endswith("_max") else value / weight for n, value in sums.items()
    }
    if tally.grad_norms:
        norms = torch.stack(tally.grad_norms).float().cpu()
        made = norms[norms.isfinite()]
        out["updates"] = float(len(made))
        if len(made) < len(norms):
            out["skipped"] = float(len(norms) - len(made))
        if len(made):
            out["grad_norm"] = float(made.mean())
    return out


def _sums(tally: Tally) -> tuple[dict[str, float], float, dict[str, float]]:
    """Return by name the weighted sums of this process's losses, their weight, and the largest."""
    if not tally.losses:
        return {}, 0.0, {}
    names = list(tally.losses[0][1])
    weights = torch.tensor([w for w, _ in tally.losses])
    rows = torch.stack([_stack(m, names) for _, m in tally.losses]).float().cpu()
    good = rows.isfinite().all(1)
    rows, weights = rows[good], weights[good]
    if not len(rows):
        return {}, 0.0, {}
    total, largest = (rows * weights[:, None]).sum(0).tolist(), rows.amax(0).tolist()
    return (
        dict(zip(names, total, strict=True)),
        float(weights.sum()),
        dict(zip(names, largest, strict=True)),
    )


def _stack(metrics: Mapping[str, Tensor], names: list[str]) -> Tensor:
    return torch.stack([metrics[n].detach() for n in names])
