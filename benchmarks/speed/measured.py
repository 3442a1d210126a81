"""From measured epochs to one line each way: medians, ratios, and that both did the same work."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.speed.flops import of_epoch
from diffrl.settings import Settings

Epochs = Sequence[Mapping[str, Any]]
QUERIES = 3
PHASES = {
    "sampling": ("unet/no-grad", ("unet/no-grad",)),
    "updating": ("unet/grad", ("unet/grad", "backward")),
}
"""What the UNet does in them, as it is counted, and the names under which that is timed. Log-probs
that are recomputed (`unet/recomputed`) are in no rate of the two."""


def agreed(repeats: Mapping[str, Epochs], settings: Settings) -> list[dict[str, Any]]:
    """Return what both ways did in an epoch, for each number of steps.

    Raises:
        SystemExit: if they did not do the same.
    """
    rows, found = settings.train.trajectories, []
    for steps in dict.fromkeys(one["steps"] for one in repeats["diffrl"]):
        work = {way: done(every, steps) for way, every in repeats.items()}
        gap = work["diffrl"]["asked/no-grad"] - work["published"]["unet/no-grad"]
        asked = QUERIES * rows
        same = (("asked/grad", "unet/grad"), ("optimizer_steps", "optimizer_steps"))
        if any(work["diffrl"][ours] != work["published"][theirs] for ours, theirs in same):
            raise SystemExit(f"the ways differ in what they train: {work}")
        if work["published"]["unet/no-grad"] != rows * steps or not 0 <= gap <= rows:
            raise SystemExit(f"the ways differ in what they sample: {work}")
        if work["published"]["reward"] != asked or not rows <= work["diffrl"]["reward"] <= asked:
            raise SystemExit(f"the ways differ in what they score: {work}")
        found.append({"steps": steps, "trajectories": rows, "reward_queries": asked, **work})
    return found


def done(every: Epochs, steps: int) -> dict[str, int]:
    """Return rows of the UNet, pictures and optimizer steps of an epoch, the most there were."""
    own = [one for one in every if one["steps"] == steps]
    names = ("asked/no-grad", "asked/grad", "unet/no-grad", "unet/grad", "vae", "reward", "text")
    counts = {name: max(one["rows"].get(name, 0) for one in own) for name in names}
    return {**counts, "optimizer_steps": max(one["optimizer_steps"] for one in own)}


def summary(result: Mapping[str, Any], repeats: Mapping[str, Epochs]) -> dict[str, Any]:
    """Return both ways' epochs: seconds are means over the numbers of steps, of medians."""
    ways = {way: _way(way, result, every) for way, every in repeats.items()}
    ours, theirs = ways["diffrl"], ways["published"]
    pairs = {
        steps: ours["by_steps"][steps]["per_second"] / theirs["by_steps"][steps]["per_second"]
        for steps in ours["by_steps"]
    }
    speed = ours["trajectories_per_second"] / theirs["trajectories_per_second"]
    spent = theirs["processor_seconds"] / ours["processor_seconds"]
    kind = "reserved" if all("reserved" in way["memory"] for way in ways.values()) else "above"
    memory = ours["memory"][kind] / max(theirs["memory"][kind], 1)
    return {
        **ways,
        "ratio": {"speed": speed, "processor_seconds": spent, "by_steps": pairs, "memory": memory},
    }


def _way(way: str, result: Mapping[str, Any], every: Epochs) -> dict[str, Any]:
    lengths, rows = list(result["steps"]), result["trajectories"]
    saving = 0.0
    if way == "diffrl":
        saving = result["checkpoint"]["seconds"] / result["checkpoint"]["every"]
    seconds = _mean(every, lengths, lambda one: one["seconds"]) + saving
    phases = {
        name: _mean(every, lengths, lambda one, name=name: one["phases"].get(name, 0.0))
        for name in ("sampling", "decoding", "scoring", "updating", "saving", "other")
    }
    phases["saving"] += saving
    operations = _mean(every, lengths, lambda one: of_epoch(result["flops_per_row"], one["rows"]))
    inside = _mean(every, lengths, lambda one: sum(one["networks"].values()))
    rate = rate_of(result, way)
    by_steps = {
        str(steps): rows / (_mean(every, [steps], lambda one: one["seconds"]) + saving)
        for steps in lengths
    }
    return {
        "precision": result["about"][way]["precision"],
        "seconds": seconds,
        "processor_seconds": _mean(every, lengths, lambda one: one["processor_seconds"]) + saving,
        "phases": phases,
        "trajectories_per_second": rows / seconds,
        "by_steps": {steps: {"per_second": value} for steps, value in by_steps.items()},
        "spread": _spread(every, lengths),
        "memory": {
            kind: max(one["memory"][kind] for one in every)
            for kind in ("peak", "above", "reserved")
            if all(kind in one["memory"] for one in every)
        },
        "model_flops": operations,
        "utilisation": operations / (seconds * rate),
        "unet_utilisation": {
            phase: _mean(every, lengths, lambda one, phase=phase: _unet(result, one, phase)) / rate
            for phase in PHASES
        },
        "log_prob_gap": max(one["log_prob_gap"] for one in every),
        **_sampling_gap(every),
        "outside_networks": {
            "seconds": seconds - inside, "share": (seconds - inside) / seconds
        },
    }  # fmt: skip


def rate_of(result: Mapping[str, Any], way: str) -> float:
    """Return the operations a second of a matrix product in a way's precision, the most there were.

    Where both ways are in one precision, they are compared with one rate.
    """
    about = result["about"][way]
    alike = [one for one in result["about"].values() if one["precision"] == about["precision"]]
    return max(one["matmul_flops_per_second"] for one in alike)


def _sampling_gap(every: Epochs) -> dict[str, float]:
    """Return how far log-probs were off those of sampling at the most, where that was noted."""
    noted = [one["sampling_gap"] for one in every if "sampling_gap" in one]
    return {"sampling_gap": max(noted)} if noted else {}


def _unet(result: Mapping[str, Any], one: Mapping[str, Any], phase: str) -> float:
    """Return the operations a second of the UNet in a phase of an epoch."""
    name, parts = PHASES[phase]
    seconds = sum(one["networks"][part] for part in parts)
    return result["flops_per_row"][name] * one["rows"][name] / seconds


def _mean(
    every: Epochs, lengths: Sequence[int], value: Callable[[Mapping[str, Any]], float]
) -> float:
    """Return the mean over numbers of steps of the median over epochs."""
    medians = [
        statistics.median(value(one) for one in every if one["steps"] == steps) for steps in lengths
    ]
    return statistics.mean(medians)


def _spread(every: Epochs, lengths: Sequence[int]) -> float:
    """Return (most - least) / median of an epoch's seconds, the larger of all numbers of steps."""
    found = []
    for steps in lengths:
        own = [one["seconds"] for one in every if one["steps"] == steps]
        found.append((max(own) - min(own)) / statistics.median(own))
    return max(found)
