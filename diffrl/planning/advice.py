"""Which settings would make a run fit, each found by planning again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from diffrl.planning.devices import Device
from diffrl.planning.estimate import Estimate
from diffrl.planning.plan import Plan, Suggestion
from diffrl.settings import Settings
from diffrl.settings.splitting import shard_problems

KNOBS = {
    "sampling": "sample_batch",
    "scoring": "decode_batch",
    "updating": "micro_batch",
    "evaluating": "sample_batch",
    "joining": "trajectories",
    "following": "trajectories",
}
"""The setting of `train` that makes a phase smaller."""

BESIDE = {"scoring": "sample_batch"}
"""The one that makes smaller what a phase may run beside."""


@dataclass(frozen=True)
class Change:
    """A way to need less memory, before batches are made smaller.

    Args:
        sets: as `--set` takes them.
        note: what else it changes; empty: nothing.
        apply: from settings to settings.
    """

    sets: tuple[str, ...]
    note: str
    apply: Callable[[Settings], Settings]


def suggestions(estimate: Estimate, most: int = 3) -> tuple[Suggestion, ...]:
    """Return settings with which a run fits, those first that change its results least."""
    found: list[Suggestion] = []
    low = half_precision(estimate.settings, estimate.device)
    for change in _changes(estimate.settings, estimate.processes, low, estimate.device.bf16):
        changed = change.apply(estimate.settings)
        if shard_problems(changed, estimate.processes):  # which a run would be refused for
            continue
        same = changed is estimate.settings
        start = replace(estimate, settings=changed, costs=estimate.counted if same else None)
        reached = smaller(start)
        if reached is None:
            continue
        plan, batches = reached
        note = change.note
        if any("trajectories" in one for one in batches):
            note = f"{note}; fewer pictures an epoch".removeprefix("; ")
        found.append(Suggestion((*change.sets, *batches), plan.bytes, note))
        if len(found) == most:
            break
    return tuple(found)


def smaller(estimate: Estimate) -> tuple[Plan, tuple[str, ...]] | None:
    """Halve the batch of the phase that decides until a run fits; none where it never does.

    Returns:
        The plan that fits, and the settings that made it.
    """
    changed: dict[str, int] = {}
    while not (plan := estimate.plan()).fits:
        settings, knob = estimate.settings, KNOBS[plan.largest.name]
        if getattr(settings.train, knob) <= 1:
            knob = BESIDE.get(plan.largest.name, knob)
        now = getattr(settings.train, knob)
        whole_groups = knob in ("sample_batch", "trajectories")
        least = settings.recipe.sampler.group if whole_groups else 1
        if now <= least or plan.room <= 0:
            return None
        fewer = now >> _halvings(plan)
        changed[knob] = max(least, fewer - fewer % least)
        train = settings.train.model_copy(update={knob: changed[knob]})
        estimate = replace(
            estimate, settings=replace(settings, train=train), costs=estimate.counted
        )
    return plan, tuple(f"train.{name}={value}" for name, value in changed.items())


def _halvings(plan: Plan) -> int:
    """Return how often a batch must be halved at least, since no call shrinks faster than it."""
    return max(1, math.floor(math.log2(plan.largest.bytes / plan.room)))


def _changes(settings: Settings, processes: int, low: str, bf16: bool) -> Iterator[Change]:
    """Yield ways to need less memory, the mildest first."""
    yield Change((), "", lambda s: s)
    speed = settings.speed
    if speed.cache_text and not (speed.low_memory or speed.graphs):
        yield Change(("speed.low_memory=true",), "slower, with the same results", _save_memory)
    full = settings.adapter.kind == "full"
    if full and processes > 1 and settings.speed.shard != "weights":
        note = "processes split the weights, and send them to each other"
        yield Change(("speed.shard=weights",), note, lambda s: _shard(s, "weights"))
        if settings.model.precision == "fp16" and bf16:  # fp16's scaler knows no split weights
            sets = ("speed.shard=weights", "model.precision=bf16")
            yield Change(sets, note, lambda s: _half(_shard(s, "weights"), "bf16"))
    rewards = [w.reward.name for w in settings.rewards if _precise(w.reward)]
    sets = tuple(f"rewards.{name}.precision={low}" for name in rewards)
    if rewards:
        yield Change(sets, "scores are rounded", lambda s: _coarser_rewards(s, low))
    halve = partial(_half, low=low)
    if low != settings.model.precision:
        yield Change((f"model.precision={low}",), "the network computes in half precision", halve)
    if full:
        lora = ("adapter.kind=lora", *(["speed.shard=off"] * (settings.speed.shard != "off")))
        yield Change(lora, "adapters are trained in place of all weights", _lora)
    if rewards and low != settings.model.precision:
        note = "network and rewards compute in half precision"
        yield Change(
            (f"model.precision={low}", *sets), note, lambda s: halve(_coarser_rewards(s, low))
        )


def half_precision(settings: Settings, device: Device) -> str:
    """Return the half precision that a run is in, or might be in."""
    if settings.model.precision != "fp32":
        return settings.model.precision
    return "bf16" if device.bf16 else "fp16"


def _precise(reward: Any) -> bool:
    return getattr(reward, "precision", None) == "fp32"


def _coarser_rewards(settings: Settings, low: str) -> Settings:
    rewards = tuple(
        replace(w, reward=w.reward.model_copy(update={"precision": low}))
        if _precise(w.reward)
        else w
        for w in settings.rewards
    )
    return replace(settings, rewards=rewards)


def _half(settings: Settings, low: str) -> Settings:
    return replace(settings, model=settings.model.model_copy(update={"precision": low}))


def _save_memory(settings: Settings) -> Settings:
    return replace(settings, speed=settings.speed.model_copy(update={"low_memory": True}))


def _lora(settings: Settings) -> Settings:
    whole = _shard(settings, "off")
    return replace(whole, adapter=settings.adapter.model_copy(update={"kind": "lora"}))


def _shard(settings: Settings, kind: str) -> Settings:
    return replace(settings, speed=settings.speed.model_copy(update={"shard": kind}))
