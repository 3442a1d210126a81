"""Update schedulers: in which order rows and steps are trained, and when the optimizer steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from diffrl.builtin.indices import (
    chosen_steps,
    columns,
    combined,
    neighbours,
    ordered,
    parts,
    permutation,
    whole,
)
from diffrl.hookspecs import hookimpl
from diffrl.stages import UpdateScheduler
from diffrl.tensors import Generator
from diffrl.types import Advantages, Minibatch, Prompts


class Pairs(UpdateScheduler):
    """Pairs of rows from one group; `order` says which of their steps share an optimizer step.

    Pairs are permuted, and each pair's steps by a permutation of its own, which both rows share.
    The outer loop runs over the columns of the permuted steps and the inner loop over the pairs, so
    that the pairs of one optimizer step are at different denoising steps.

    `steps-in-order` leaves the steps unpermuted, so that all pairs train their first step, then
    their second, and so on. `steps-accumulated` lets each set of pairs go
    through all its steps, one after the other, before the optimizer steps. `trajectories` hands
    over all steps of its pairs at once, for losses on whole trajectories.

    In a group, rows 0 and 1 are a pair, 2 and 3 are one, and so on; with `choose=all` every two
    rows are.

    Source: SDPO, arXiv:2411.11727, "step-shuffled gradient updates"; ZiyiZhang27/sdpo
    scripts/train_sdpo.py.
    Differs: where pairs do not divide by `per_update` they are split as evenly as possible; the
    published code needs them to divide.
    """

    name: ClassVar[str] = "pairs"
    arity: ClassVar[int] = 2
    order: Literal["steps-shuffled", "steps-in-order", "steps-accumulated", "trajectories"] = Field(
        default="steps-shuffled", description="Which steps of a pair share an optimizer step."
    )
    choose: Literal["neighbours", "all"] = Field(
        default="neighbours", description="Which two rows of a group are compared."
    )
    per_update: NonNegativeInt = Field(
        default=0, description="Pairs per optimizer step; 0: all of them."
    )
    skip_last: NonNegativeInt = Field(
        default=0, description="Last denoising steps left out of training."
    )
    timestep_fraction: float = Field(
        default=1.0, gt=0, le=1, description="Share of the remaining steps that each pair trains."
    )
    inner_epochs: PositiveInt = Field(default=1, description="Passes over the rollout.")

    @property
    def commits_once(self) -> bool:
        """Whether an epoch makes one optimizer step, so that all gradients are on-policy."""
        whole = self.order in ("steps-accumulated", "trajectories")
        return whole and self.per_update == 0 and self.inner_epochs == 1

    @property
    def whole_trajectories(self) -> bool:
        """Whether each minibatch holds all steps of its rows, but for the last that are skipped."""
        return self.order == "trajectories" and self.timestep_fraction == 1

    def group_problems(self, group: int) -> list[str]:
        """Return what keeps it from working with groups of that many rows, one line each."""
        if self.choose == "all" or group < 2 or group % 2 == 0:
            return super().group_problems(group)
        return [
            f"update scheduler {self.name!r} pairs neighbours, which leaves one row of every group "
            f"of sampler.group={group} untrained; make it even or set update_scheduler.choose=all"
        ]

    def trained(self, steps: int) -> int:
        """Return how many of T steps are trained: at least one, if any are left."""
        left = steps - self.skip_last
        return max(min(left, 1), int(left * self.timestep_fraction))

    def __call__(
        self, prompts: Prompts, advantages: Advantages, rng: Generator
    ) -> Iterator[Minibatch]:
        """Yield the epoch's minibatches, in order."""
        total = advantages.value.shape[1]
        pairs = (neighbours if self.choose == "neighbours" else combined)(prompts.group, self.arity)
        for _ in range(self.inner_epochs):
            rows = pairs[permutation(len(pairs), rng)]
            left, trained = total - self.skip_last, self.trained(total)
            steps = chosen_steps(len(pairs), left, trained, self.order == "steps-in-order", rng)
            yield from ordered(rows, steps, self.order, self.per_update)


class RowsFirst(UpdateScheduler):
    """Single rows; an optimizer step follows after all trained steps of its rows.

    Rows are permuted, and each row's steps by a permutation of its own. Each minibatch holds one
    step of `rows_per_update` rows; their gradients add up to the mean over steps. The other orders
    are those of `pairs`: an optimizer step for each column of permuted or unpermuted steps.

    Source: DDPO, arXiv:2305.13301; kvablack/ddpo-pytorch scripts/train.py, which accumulates over
    timesteps and minibatches.
    """

    name: ClassVar[str] = "rows-first"
    arity: ClassVar[int] = 1
    order: Literal["steps-accumulated", "steps-shuffled", "steps-in-order"] = Field(
        default="steps-accumulated", description="Which steps of a row share an optimizer step."
    )
    rows_per_update: NonNegativeInt = Field(
        default=0, description="Rows per optimizer step; 0: all of them."
    )
    skip_last: NonNegativeInt = Field(
        default=0, description="Last denoising steps left out of training."
    )
    timestep_fraction: float = Field(
        default=1.0, gt=0, le=1, description="Share of the remaining steps that each row trains."
    )
    inner_epochs: PositiveInt = Field(default=1, description="Passes over the rollout.")

    @property
    def commits_once(self) -> bool:
        """Whether an epoch makes one optimizer step, so that all gradients are on-policy."""
        whole = self.order == "steps-accumulated"
        return whole and self.rows_per_update == 0 and self.inner_epochs == 1

    def trained(self, steps: int) -> int:
        """Return how many of T steps are trained: at least one, if any are left."""
        left = steps - self.skip_last
        return max(min(left, 1), int(left * self.timestep_fraction))

    def __call__(
        self, prompts: Prompts, advantages: Advantages, rng: Generator
    ) -> Iterator[Minibatch]:
        """Yield the epoch's minibatches, in order; the last of its rows commits."""
        total = advantages.value.shape[1]
        for _ in range(self.inner_epochs):
            rows = permutation(len(prompts), rng)[:, None]
            left, trained = total - self.skip_last, self.trained(total)
            steps = chosen_steps(len(prompts), left, trained, self.order == "steps-in-order", rng)
            yield from ordered(rows, steps, self.order, self.rows_per_update)


class Groups(UpdateScheduler):
    """All rows and steps of a group at once, for losses that compare every two of its rows.

    The same pairs as those of `pairs` with `choose=all`, but each row is evaluated once instead of
    once per pair. Groups are permuted.

    Source: PRDP, arXiv:2402.08714, section 4: all pairs among the images of a prompt.
    """

    name: ClassVar[str] = "groups"
    arity: ClassVar[int] = 2
    whole_groups: ClassVar[bool] = True
    per_update: NonNegativeInt = Field(
        default=0, description="Groups per optimizer step; 0: all of them."
    )
    skip_last: NonNegativeInt = Field(
        default=0, description="Last denoising steps left out of training."
    )
    inner_epochs: PositiveInt = Field(default=1, description="Passes over the rollout.")

    @property
    def commits_once(self) -> bool:
        """Whether an epoch makes one optimizer step, so that all gradients are on-policy."""
        return self.per_update == 0 and self.inner_epochs == 1

    @property
    def whole_trajectories(self) -> bool:
        """Whether each minibatch holds all steps of its rows, but for the last that are skipped."""
        return True

    def trained(self, steps: int) -> int:
        """Return how many of T steps are trained."""
        return steps - self.skip_last

    def __call__(
        self, prompts: Prompts, advantages: Advantages, rng: Generator
    ) -> Iterator[Minibatch]:
        """Yield the epoch's minibatches, in order."""
        groups = whole(prompts.group)
        steps = columns(len(groups), self.trained(advantages.value.shape[1]), None)
        for _ in range(self.inner_epochs):
            rows = groups[permutation(len(groups), rng)]
            for part in parts(len(rows), self.per_update):
                yield Minibatch(rows[part], steps[part])


@hookimpl
def diffrl_update_schedulers() -> list[type[UpdateScheduler]]:
    """Return the core's update schedulers."""
    return [Groups, Pairs, RowsFirst]
