"""Runs that tables and figures are made of, and how much of each is made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tier:
    """How much is measured.

    Args:
        name: of the tier.
        seeds: training seeds, from 42 on.
        sets: common to all runs.
        rollouts: that predicted rewards are compared on.
    """

    name: str
    seeds: int
    sets: tuple[str, ...]
    rollouts: int


TIERS = {
    "quick": Tier(
        "quick",
        1,
        ("train.epochs=4", "train.trajectories=32", "eval.every=2", "eval.images=24"),
        16,
    ),
    "full": Tier("full", 5, ("train.epochs=40", "eval.every=10", "eval.images=32"), 128),
}


@dataclass(frozen=True)
class Cell:
    """One way of training, for as many seeds as a tier has."""

    name: str
    algo: str
    reward: str = "pickscore"
    sets: tuple[str, ...] = ()
