"""What holds for every advantage estimator."""

from __future__ import annotations

import io

import pytest
import torch

from diffrl.stages import AdvantageEstimator
from diffrl.tensors import Int, Tensor
from diffrl.testing.contracts.component import ComponentContract
from diffrl.testing.contracts.same import bare, differences, untouched
from diffrl.testing.toy import ToyPolicy
from diffrl.types import Memory, Prompts, Rewards, last_step


class AdvantageEstimatorContract(ComponentContract):
    """Tests of an advantage estimator; the subclass supplies `component`."""

    group = 4

    @pytest.fixture
    def prompts(self, policy: ToyPolicy) -> Prompts:
        """Two groups of one prompt, one of another, without conditions as in a run."""
        return bare(policy.prompts((self.text[0], self.text[1], self.text[0]), self.group))

    @pytest.fixture
    def rewards(self, prompts: Prompts) -> Rewards:
        """Dense random rewards over five steps."""
        rng = torch.Generator().manual_seed(0)
        return Rewards(torch.randn(len(prompts), 5, generator=rng))

    @pytest.fixture
    def memory(self, component: AdvantageEstimator, rewards: Rewards, prompts: Prompts) -> Memory:
        """What the estimator remembers after three epochs."""
        memory = Memory()
        for _ in range(3):
            _, memory = component(Rewards(rewards.value.clone()), prompts, memory)
        return memory

    def test_every_step_of_every_row_gets_a_finite_advantage(
        self, component: AdvantageEstimator, rewards: Rewards, prompts: Prompts, memory: Memory
    ) -> None:
        """With and without a past."""
        for past in (Memory(), memory):
            value = component(rewards, prompts, past)[0].value
            assert value.shape == rewards.value.shape
            assert value.dtype == rewards.value.dtype
            assert value.isfinite().all()

    def test_equal_rewards_give_finite_advantages(
        self, component: AdvantageEstimator, prompts: Prompts
    ) -> None:
        """A standard deviation of zero is no reason to fail."""
        flat = Rewards(torch.full((len(prompts), 5), 0.3))
        assert component(flat, prompts, Memory())[0].value.isfinite().all()

    def test_memory_is_a_value(
        self, component: AdvantageEstimator, rewards: Rewards, prompts: Prompts, memory: Memory
    ) -> None:
        """The old memory is unchanged, so that a run can be continued from it."""
        with untouched(rewards=rewards, prompts=prompts, memory=memory):
            first = component(rewards, prompts, memory)
        assert not differences(first, component(rewards, prompts, memory))

    def test_memory_survives_a_checkpoint(
        self, component: AdvantageEstimator, rewards: Rewards, prompts: Prompts, memory: Memory
    ) -> None:
        """A resumed run goes on with the same statistics."""
        past = component(rewards, prompts, memory)[1]
        assert all(isinstance(value, torch.Tensor) for value in past.history.values())
        file = io.BytesIO()
        torch.save([(*key, value) for key, value in past.history.items()], file)
        file.seek(0)
        read = torch.load(file, weights_only=True)
        restored = Memory({(prompt, steps): value for prompt, steps, value in read})
        assert not differences(
            component(rewards, prompts, restored), component(rewards, prompts, past)
        )

    def test_order_of_rows_does_not_matter(
        self, component: AdvantageEstimator, rewards: Rewards, prompts: Prompts, memory: Memory
    ) -> None:
        """Ranks may be gathered in any order, as long as groups stay together."""
        order = _shuffle(len(prompts), self.group)
        moved = Rewards(rewards.value[order]), prompts.pick(order.tolist())
        for past in (Memory(), memory):
            here = component(rewards, prompts, past)[0].value
            there = component(*moved, past)[0].value
            assert torch.allclose(there, here[order], atol=1e-4)

    def test_a_better_row_has_no_lower_advantage(
        self, component: AdvantageEstimator, prompts: Prompts
    ) -> None:
        """Rows of one group that differ in a terminal reward keep their order."""
        if self.group == 1:
            pytest.skip("no two rows of one prompt")
        last = component(_terminal(prompts), prompts, Memory())[0].value[:, -1]
        better = torch.cat([last[prompts.group == one].diff() for one in prompts.group.unique()])
        assert (better >= 0).all()
        assert better.any(), "rows of other rewards all have one advantage, which teaches nothing"

    def test_looks_ahead_is_true_to_its_word(
        self, component: AdvantageEstimator, prompts: Prompts
    ) -> None:
        """A terminal reward tells rows apart at the first step, or only at its own."""
        if self.group == 1:
            pytest.skip("no two rows of one prompt")
        first = component(_terminal(prompts), prompts, Memory())[0].value[:, 0]
        apart = any(first[prompts.group == one].diff().any() for one in prompts.group.unique())
        assert apart == component.looks_ahead, "looks_ahead should say whether later rewards count"

    def test_gradient_of_the_reward_travels_along(
        self, component: AdvantageEstimator, rewards: Rewards, prompts: Prompts
    ) -> None:
        """A gradient loss finds it beside the advantage; without one there is none."""
        grad = torch.randn(len(prompts), 2, 2, 2, generator=torch.Generator().manual_seed(1))
        carried = component(Rewards(rewards.value, grad), prompts, Memory())[0].grad
        assert carried is not None and carried.shape == grad.shape
        assert component(rewards, prompts, Memory())[0].grad is None

    def test_steps_may_differ_between_epochs(
        self, component: AdvantageEstimator, rewards: Rewards, prompts: Prompts, memory: Memory
    ) -> None:
        """A memory of five steps does not get in the way of three."""
        value = component(Rewards(rewards.value[:, 2:]), prompts, memory)[0].value
        assert value.shape == (len(prompts), 3)


def _terminal(prompts: Prompts) -> Rewards:
    """Return rewards of five steps of which the last alone has one, more for each row."""
    return Rewards(last_step(torch.linspace(-1, 1, len(prompts)), 5))


def _shuffle(rows: int, group: int) -> Int[Tensor, "n"]:
    rng = torch.Generator().manual_seed(1)
    groups = torch.randperm(rows // group, generator=rng)
    inside = [torch.randperm(group, generator=rng) for _ in groups]
    return torch.cat([int(g) * group + i for g, i in zip(groups, inside, strict=True)])
