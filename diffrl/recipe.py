"""A recipe: five stages that together are an algorithm."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from diffrl.errors import FitError, shown
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
DECLARED = ("needs", "gives")


@dataclass(frozen=True)
class Recipe:
    """An algorithm as a value.

    Args:
        name: what `--algo` calls it.
        source: the paper or code it follows.
        sampler, reward_predictor, advantage_estimator, update_scheduler, loss: its parts.
        tuned_like: algorithms whose values in presets (learning rate, clip range, …) hold for this
            one, too, the nearest last. Fields that a stage does not have are left out.
    """

    name: str
    source: str
    sampler: Sampler
    reward_predictor: RewardPredictor
    advantage_estimator: AdvantageEstimator
    update_scheduler: UpdateScheduler
    loss: Loss
    tuned_like: tuple[str, ...] = ()

    def but(self, **stages: Any) -> Recipe:
        """Return a variant with some stages swapped (also `name` and `source`).

        One with a name of its own is tuned like this one, unless `tuned_like` is given, too.
        """
        if stages.get("name", self.name) != self.name:
            stages = {"tuned_like": (*self.tuned_like, self.name), **stages}
        return replace(self, **stages)

    @property
    def stages(self) -> dict[str, Component]:
        """The five stages by the name of their slot, in the order in which they run."""
        return {slot: getattr(self, slot) for slot in STAGES}

    @property
    def reads_density(self) -> bool:
        """Whether the loss reads how likely steps are, as replaying them to a gradient does not."""
        needs = self.loss.needs
        return "log_prob" in needs or ("path" in needs and "grad" not in needs)

    def problems(self) -> list[str]:
        """Return everything that keeps these stages from working, one line each."""
        return self.faults() + self.misfits()

    def faults(self) -> list[str]:
        """Return what is wrong with single stages, one line each."""
        others = [stage for stage in self.stages.values() if stage is not self.sampler]
        if not self.sampler.lengths:
            return [line for stage in (self.sampler, *others) for line in stage.problems()]
        found = []
        for epoch, steps in enumerate(self.sampler.lengths, 1):
            try:
                lines = self.sampler.for_epoch(epoch).problems()
            except ValidationError as error:
                lines = [error.errors()[0]["msg"]]
            found += [f"sampler.lengths holds {steps}: {line}" for line in lines]
        return found + [line for stage in others for line in stage.problems()]

    def misfits(self) -> list[str]:
        """Return what keeps these stages from working together, one line each."""
        if undeclared := self._undeclared():
            return undeclared
        density = self.sampler.density_problems() if self.reads_density else []
        return density + self._missing() + self._arity() + self._steps() + self._signal()

    def check(self) -> None:
        """Refuse stages that do not fit.

        Raises:
            FitError: naming each misfit.
        """
        if found := self.problems():
            raise FitError(found)

    def _undeclared(self) -> list[str]:
        """Return the stages whose `needs` or `gives` cannot be read, one line each."""
        said = [(s, name, getattr(s, name)) for s in self.stages.values() for name in DECLARED]
        return [
            f"{stage.name!r} has {name} = {shown(what)}; expected a frozenset of names"
            for stage, name, what in said
            if not isinstance(what, Set)
        ]

    def _missing(self) -> list[str]:
        found, have = [], set(ALWAYS)
        given = ", ".join(sorted(self.sampler.gives)) or "nothing: see its property gives"
        for slot, stage in self.stages.items():
            for what in sorted(stage.needs - have):
                found.append(
                    f"{_label(slot)} {stage.name!r} needs {what}, but no earlier stage gives it "
                    f"(sampler {self.sampler.name!r} gives {given})"
                )
            have |= stage.gives
        return found

    def _arity(self) -> list[str]:
        found = []
        scheduler, loss = self.update_scheduler, self.loss
        if scheduler.arity < loss.arity or (scheduler.arity > loss.arity and not loss.any_arity):
            found.append(
                f"loss {loss.name!r} compares tuples of {loss.arity}, but update scheduler "
                f"{scheduler.name!r} yields tuples of {scheduler.arity}"
            )
        if scheduler.whole_groups and not loss.any_arity:
            found.append(
                f"loss {loss.name!r} compares tuples of {loss.arity}, but update scheduler "
                f"{scheduler.name!r} yields whole groups"
            )
        for stage in self.stages.values():
            found += stage.group_problems(self.sampler.group)
        if loss.whole_trajectories and not scheduler.whole_trajectories:
            found.append(
                f"loss {loss.name!r} adds up all steps of a trajectory, but update scheduler "
                f"{scheduler.name!r} hands over some at a time; set "
                f"update_scheduler.order=trajectories and timestep_fraction=1"
            )
        if loss.on_policy and not scheduler.commits_once:
            found.append(
                f"loss {loss.name!r} is right only on-policy, but update scheduler "
                f"{scheduler.name!r} makes several optimizer steps an epoch"
            )
        return found

    def _steps(self) -> list[str]:
        fewest = min(self.sampler.lengths or (self.sampler.steps,))
        if self.update_scheduler.trained(fewest) >= 1:
            return []
        field = "lengths" if self.sampler.lengths else "steps"
        return [
            f"update scheduler {self.update_scheduler.name!r} leaves none of the sampler's "
            f"{fewest} step(s) to train; raise sampler.{field}, or change "
            f"update_scheduler.skip_last or timestep_fraction"
        ]

    def _signal(self) -> list[str]:
        predictor, estimator = self.reward_predictor, self.advantage_estimator
        several = max(self.sampler.lengths or (self.sampler.steps,)) > 1
        if not (several and predictor.last_alone) or estimator.looks_ahead:
            return []
        return [
            f"reward predictor {predictor.name!r} rewards the last step alone, and advantage "
            f"estimator {estimator.name!r} hands none of it to earlier ones, as it is set; raise "
            f"advantage_estimator.gamma above 0"
        ]


def _label(slot: str) -> str:
    return slot.replace("_", " ")
