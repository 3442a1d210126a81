"""What holds for every update scheduler."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
import torch

from diffrl.stages import UpdateScheduler
from diffrl.testing.contracts.component import ComponentContract
from diffrl.testing.contracts.same import bare, differences, untouched
from diffrl.testing.toy import ToyPolicy
from diffrl.types import Advantages, Minibatch, Prompts


class UpdateSchedulerContract(ComponentContract):
    """Tests of an update scheduler; the subclass supplies `component`.

    Attributes:
        steps: T of the rollout.
        group: rows per prompt; a multiple of the arity.
    """

    steps = 5
    group = 4

    @pytest.fixture
    def prompts(self, policy: ToyPolicy) -> Prompts:
        """Four groups, without conditions as in a run."""
        return bare(policy.prompts(self.text, self.group))

    @pytest.fixture
    def advantages(self, prompts: Prompts) -> Advantages:
        """Random advantages."""
        rng = torch.Generator().manual_seed(0)
        return Advantages(torch.randn(len(prompts), self.steps, generator=rng))

    @pytest.fixture
    def minibatches(
        self, component: UpdateScheduler, prompts: Prompts, advantages: Advantages
    ) -> list[Minibatch]:
        """An epoch's minibatches."""
        return list(component(prompts, advantages, torch.Generator().manual_seed(0)))

    def test_indices_name_rows_and_steps_that_exist(
        self, component: UpdateScheduler, minibatches: list[Minibatch], prompts: Prompts
    ) -> None:
        """Tuples have the scheduler's arity."""
        assert minibatches
        for minibatch in minibatches:
            rows, steps = minibatch.rows, minibatch.steps
            assert rows.shape[1] == (self.group if component.whole_groups else component.arity)
            assert rows.numel() and steps.numel() and len(rows) == len(steps)
            assert 0 <= rows.min() and rows.max() < len(prompts)
            assert 0 <= steps.min() and steps.max() < self.steps

    def test_tuple_members_are_different_rows_of_one_group(
        self, minibatches: list[Minibatch], prompts: Prompts
    ) -> None:
        """Only rows that share their prompt are compared."""
        for minibatch in minibatches:
            groups = prompts.group[minibatch.rows]
            assert (groups == groups[:, :1]).all()
            assert all(len(set(row)) == len(row) for row in minibatch.rows.tolist())

    def test_every_row_is_visited_equally_often(
        self, component: UpdateScheduler, minibatches: list[Minibatch], prompts: Prompts
    ) -> None:
        """In each pass over a row `trained(T)` steps, none twice; only chosen rows count."""
        visits: defaultdict[int, Counter[int]] = defaultdict(Counter)
        for minibatch in minibatches:
            for rows, steps in zip(minibatch.rows.tolist(), minibatch.steps.tolist(), strict=True):
                for row in rows:
                    visits[row].update(steps)
        often = set()
        for row, steps in visits.items():
            passes, left = divmod(steps.total(), component.trained(self.steps))
            assert not left and max(steps.values()) <= passes, f"steps of row {row}"
            often.add(passes)
        assert component.chooses_rows or visits.keys() == set(range(len(prompts)))
        assert len(often) == 1

    def test_no_gradient_is_left_over(self, minibatches: list[Minibatch]) -> None:
        """The last minibatch commits."""
        assert minibatches[-1].commit

    def test_weights_within_an_optimizer_step_sum_to_one(
        self, minibatches: list[Minibatch]
    ) -> None:
        """An accumulated gradient is a mean, whatever the number of minibatches."""
        total = 0.0
        for minibatch in minibatches:
            total += minibatch.weight
            if minibatch.commit:
                assert total == pytest.approx(1.0)
                total = 0.0

    def test_commits_once_is_true_to_its_word(
        self, component: UpdateScheduler, minibatches: list[Minibatch]
    ) -> None:
        """On-policy losses rely on it."""
        if component.commits_once:
            assert sum(minibatch.commit for minibatch in minibatches) == 1

    def test_whole_trajectories_are_whole(
        self, component: UpdateScheduler, minibatches: list[Minibatch]
    ) -> None:
        """Losses that add up a row's steps rely on it."""
        if component.whole_trajectories:
            for minibatch in minibatches:
                assert minibatch.steps.shape[1] == component.trained(self.steps)

    def test_same_seed_same_order(
        self,
        component: UpdateScheduler,
        minibatches: list[Minibatch],
        prompts: Prompts,
        advantages: Advantages,
    ) -> None:
        """All randomness comes from `rng`."""
        again = list(component(prompts, advantages, torch.Generator().manual_seed(0)))
        assert not differences(minibatches, again)

    def test_inputs_are_left_alone(
        self, component: UpdateScheduler, prompts: Prompts, advantages: Advantages
    ) -> None:
        """A scheduler yields indices and changes nothing but `rng`."""
        with untouched(prompts=prompts, advantages=advantages):
            list(component(prompts, advantages, torch.Generator().manual_seed(0)))

    def test_old_follows_at_a_decay_between_0_and_1(self, component: UpdateScheduler) -> None:
        """0 copies, 1 stands still."""
        assert all(0 <= component.behind(epoch) <= 1 for epoch in (1, 2, 10, 1000))
