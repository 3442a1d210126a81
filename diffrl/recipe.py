"""A recipe: five stages that together are an algorithm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from diffrl.errors import FitError
from diffrl.stages import (
    STAGES,
    AdvantageEstimator,
    Component,
    Loss,
    RewardPredictor,
    Sampler,
    UpdateScheduler,
)

ALWAYS = frozenset({"x0", "old", "base"})


@dataclass(frozen=True)
class Recipe:
    """An algorithm as a value.

    Args:
        name: what `--algo` calls it.
        source: the paper or code it follows.
        sampler, reward_predictor, advantage_estimator, update_scheduler, loss: its parts.
    """

    name: str
    source: str
    sampler: Sampler
    reward_predictor: RewardPredictor
    advantage_estimator: AdvantageEstimator
    update_scheduler: UpdateScheduler
    loss: Loss

    def but(self, **stages: Any) -> Recipe:
        """Return a variant with some stages swapped (also `name` and `source`)."""
        return replace(self, **stages)

    @property
    def stages(self) -> dict[str, Component]:
        """The five stages by the name of their slot, in the order in which they run."""
        return {slot: getattr(self, slot) for slot in STAGES}

    def problems(self) -> list[str]:
        """Return everything that keeps these stages from working together, one line each."""
        found = [line for stage in self.stages.values() for line in stage.problems()]
        return found + self._missing() + self._arity() + self._steps()

    def check(self) -> None:
        """Refuse stages that do not fit.

        Raises:
            FitError: naming each misfit.
        """
        if found := self.problems():
            raise FitError(found)

    def _missing(self) -> list[str]:
        found, have = [], set(ALWAYS)
        for slot, stage in self.stages.items():
            for what in sorted(stage.needs - have):
                found.append(
                    f"{_label(slot)} {stage.name!r} needs {what}, but no earlier stage gives it "
                    f"(sampler {self.sampler.name!r} gives {', '.join(sorted(self.sampler.gives))})"
                )
            have |= stage.gives
        return found

    def _arity(self) -> list[str]:
        found = []
        scheduler, loss = self.update_scheduler, self.loss
        if scheduler.arity != loss.arity:
            found.append(
                f"loss {loss.name!r} compares tuples of {loss.arity}, but update scheduler "
                f"{scheduler.name!r} yields tuples of {scheduler.arity}"
            )
        for stage in self.stages.values():
            found += stage.group_problems(self.sampler.group)
        if loss.whole_trajectories and not scheduler.whole_trajectories:
            found.append(
                f"loss {loss.name!r} adds up all steps of a trajectory, but update scheduler "
                f"{scheduler.name!r} hands over some at a time; set "
                f"update_scheduler.order=trajectories and fraction=1"
            )
        if loss.on_policy and not scheduler.commits_once:
            found.append(
                f"loss {loss.name!r} is right only on-policy, but update scheduler "
                f"{scheduler.name!r} makes several optimizer steps an epoch"
            )
        return found

    def _steps(self) -> list[str]:
        if self.update_scheduler.trained(self.sampler.steps) >= 1:
            return []
        return [
            f"update scheduler {self.update_scheduler.name!r} leaves none of the sampler's "
            f"{self.sampler.steps} step(s) to train; raise sampler.steps, or change "
            f"update_scheduler.skip_last or fraction"
        ]


def _label(slot: str) -> str:
    return slot.replace("_", " ")
