"""From what an epoch left behind to its line of metrics."""

from __future__ import annotations

import torch

from diffrl.scoring import ScoredBy
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
    gaps = ranks.everyones([torch.cat(tally.gaps).float().cpu()] if tally.gaps else [])
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
        mine = columns.get(reward.name, torch.zeros(0))
        scores = ranks.exchange.rows(mine, queries, "scores").cpu()
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

    Steps whose gradient is not finite are skipped, and counted apart; figures of losses that are
    not finite are left out.
    """
    every = ranks.everyones([_sums(tally)])
    out: dict[str, float] = {}
    for name in dict.fromkeys(n for own in every for n in own):
        total, weight, largest = zip(*(own[name] for own in every if name in own), strict=True)
        if name.endswith("_max"):
            out[f"loss/{name}"] = max(largest)
        elif sum(weight):  # else nothing that the loss said weighed anything
            out[f"loss/{name}"] = sum(total) / sum(weight)
    if tally.grad_norms:
        norms = torch.stack(tally.grad_norms).float().cpu()
        made = norms[norms.isfinite()]
        out["updates"] = float(len(made))
        if len(made) < len(norms):
            out["skipped"] = float(len(norms) - len(made))
        if len(made):
            out["grad_norm"] = float(made.mean())
    return out


def _sums(tally: Tally) -> dict[str, tuple[float, float, float]]:
    """Return by name this process's weighted sum of what its losses said, its weight, the largest.

    Of the pieces that said it, and where it is finite: a loss need not say the same each time.
    """
    found = {}
    for name in dict.fromkeys(n for _, said in tally.losses for n in said):
        pairs = [(weight, said[name]) for weight, said in tally.losses if name in said]
        values = torch.stack([value for _, value in pairs]).float().cpu()
        weights, good = torch.tensor([weight for weight, _ in pairs]), values.isfinite()
        if bool(good.any()):
            values, weights = values[good], weights[good]
            total = float((values * weights).sum())
            found[name] = total, float(weights.sum()), float(values.max())
    return found
