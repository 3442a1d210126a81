"""What models that are judged together share, though their runs were set otherwise."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from diffrl.evidence.protocol import sampler_called
from diffrl.evidence.subjects import Subject
from diffrl.settings import Settings
from diffrl.stages import Reward, Sampler

SET = ("steps", "group", "eta", "lengths", "share_noise")
"""Fields of samplers that an evaluation sets itself, or that single pictures have no use for."""


def shared_rewards(judged: Sequence[Subject]) -> dict[str, tuple[str, Reward]]:
    """Return the rewards of all runs by name, each as the first run has it, with whose it is."""
    found: dict[str, tuple[str, Reward]] = {}
    for one in judged:
        for reward in _rewards(one.run) if one.run else ():
            found.setdefault(reward.name, (one.name, reward))
    return found


def set_otherwise(
    judged: Sequence[Subject], shared: Mapping[str, tuple[str, Reward]], used: Collection[str]
) -> list[str]:
    """Return where runs have other settings of the shared rewards that are used."""
    return [
        f"reward {reward.name!r} is set as in {whose}; {one.name} has other {', '.join(fields)}"
        for one in judged
        if one.run is not None
        for reward in _rewards(one.run)
        if reward.name in used
        for whose, first in [shared[reward.name]]
        if (fields := _unlike(first, reward))
    ]


def _rewards(run: Settings) -> list[Reward]:
    return [*(w.reward for w in run.rewards), *run.watched]


def _unlike(one: Reward, other: Reward) -> list[str]:
    """Return the fields in which two rewards of one name differ."""
    a, b = one.identity(), other.identity()
    return [key for key in {**a, **b} if a.get(key) != b.get(key)]


def usual(run: Settings) -> dict[str, Any]:
    """Return how a run's own evaluations draw."""
    return {
        "sampler": run.drawing.name,
        "eta": run.eval.eta,
        "size": run.model.size,
        "guidance": run.model.guidance,
        "precision": run.model.precision,
    }


def drawn_otherwise(
    judged: Sequence[Subject], chosen: Mapping[str, Any], given: Mapping[str, Any]
) -> list[str]:
    """Return where models are drawn otherwise than their runs draw, if nobody asked for it.

    Args:
        judged: models.
        chosen: `sampler`, `eta`, `size`, `guidance` and `precision` of all.
        given: those of them that the command line names; None: not named.
    """
    found = [
        f"{name} {chosen[name]} for all; the run of {one.name} has {own}"
        for one in judged
        if one.run is not None
        for name, own in usual(one.run).items()
        if own != chosen[name] and given.get(name) is None
    ]
    used = sampler_called(str(chosen["sampler"]))
    told = _own_fields(used)
    return found + [
        f"sampler.{name} {told[name]} for all; the run of {one.name} has {own}"
        for one in judged
        if one.run is not None and one.run.recipe.sampler.name == used.name
        for name, own in _own_fields(one.run.recipe.sampler).items()
        if own != told[name]
    ]


def _own_fields(sampler: Sampler) -> dict[str, Any]:
    """Return a sampler's fields but for those that an evaluation sets, or has no use for."""
    every = sampler.model_dump(mode="json")
    return {name: own for name, own in every.items() if name not in SET}
