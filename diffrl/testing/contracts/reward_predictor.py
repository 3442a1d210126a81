"""What holds for every reward predictor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from diffrl.expected import WHOLE
from diffrl.stages import RewardPredictor
from diffrl.tensors import Float, Int, Tensor
from diffrl.testing.contracts.component import ComponentContract
from diffrl.testing.contracts.same import differences, untouched
from diffrl.testing.toy import ToyJudge, ToyPolicy, walk
from diffrl.types import Path, Prompts, Rewards, Rollout


class CountingJudge(ToyJudge):
    """The toy judge, counting the pictures that it scores by their group and denoising step."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[int, int]] = Counter()

    def __call__(
        self, x0: Float[Tensor, "b *latent"], prompts: Prompts, step: Int[Tensor, "b"]
    ) -> Float[Tensor, "b"]:
        """Return a score per row; `grad` counts too, as it scores once.

        Raises:
            AssertionError: if there is not one prompt and one whole number for each row.
        """
        assert len(prompts) == len(prompts.group) == len(x0), "a prompt for each row"
        assert step.shape == (len(x0),), "the denoising step of each row, of shape b"
        assert step.dtype in WHOLE, "denoising steps are whole numbers"
        self.asked.update(zip(prompts.group.tolist(), step.tolist(), strict=True))
        return super().__call__(x0, prompts, step)

    @property
    def pictures(self) -> int:
        """How many it has scored."""
        return self.asked.total()


class RewardPredictorContract(ComponentContract):
    """Tests of a reward predictor; the subclass supplies `component`."""

    @pytest.fixture
    def rollout(self, component: RewardPredictor, policy: ToyPolicy) -> Rollout:
        """Five steps of eight rows, holding `x0` and what the predictor says it needs."""
        return only(component.needs, full_rollout(policy, steps=5))

    def test_every_row_gets_a_finite_reward_at_every_step(
        self, component: RewardPredictor, rollout: Rollout, judge: ToyJudge
    ) -> None:
        """From a rollout with no more than it needs."""
        rewards = component(rollout, judge)
        assert rewards.value.shape == (len(rollout), len(rollout.times))
        assert rewards.value.isfinite().all()
        assert not rewards.value.requires_grad

    def test_few_steps_are_enough(
        self, component: RewardPredictor, policy: ToyPolicy, judge: ToyJudge
    ) -> None:
        """First and last step may be neighbours, or one."""
        for steps in (1, 2):
            rollout = only(component.needs, full_rollout(policy, steps))
            value = component(rollout, judge).value
            assert value.shape == (len(rollout), steps) and value.isfinite().all()

    def test_last_alone_is_true_to_its_word(
        self, component: RewardPredictor, rollout: Rollout, judge: ToyJudge
    ) -> None:
        """The fit check relies on it: such rewards reach earlier steps by their returns alone."""
        if not component.last_alone:
            pytest.skip("rewards earlier steps, too")
        assert not component(rollout, judge).value[:, :-1].any()

    def test_scores_of_each_reward_are_one_for_each_row(
        self, component: RewardPredictor, rollout: Rollout, judge: ToyJudge
    ) -> None:
        """Losses may vote by them."""
        each = component(rollout, judge).each
        if each is None:
            pytest.skip("keeps none")
        assert each.ndim == 2 and len(each) == len(rollout)
        assert each.isfinite().all() and not each.requires_grad

    def test_same_rollout_same_rewards(
        self, component: RewardPredictor, rollout: Rollout, judge: ToyJudge
    ) -> None:
        """A reward predictor has no randomness."""
        assert not differences(component(rollout, judge), component(rollout, judge))

    def test_rollout_is_left_alone(
        self, component: RewardPredictor, rollout: Rollout, judge: ToyJudge
    ) -> None:
        """Rewards are new tensors."""
        with untouched(rollout=rollout):
            component(rollout, judge)

    def test_queries_bounds_the_pictures_judged_per_row(
        self, component: RewardPredictor, policy: ToyPolicy
    ) -> None:
        """Never more than it says; fewer only where two queries name one picture."""
        for steps in (1, 2, 5, 20):
            rollout, judge = full_rollout(policy, steps), CountingJudge()
            component(only(component.needs, rollout), judge)
            most = component.queries(steps) * len(rollout)
            assert judge.pictures <= most
            assert steps < 5 or judge.pictures >= most / 2
            assert all(0 <= step < steps for _, step in judge.asked)

    def test_asks_apart_is_true_to_its_word(
        self, component: RewardPredictor, rollout: Rollout
    ) -> None:
        """Rewards that compare pictures are handed those of one group and step together."""
        if component.asks_apart:
            pytest.skip("compares nothing")
        judge = CountingJudge()
        component(rollout, judge)
        rows = Counter(rollout.prompts.group.tolist())
        apart = [kind for kind, asked in judge.asked.items() if asked % rows[kind[0]]]
        assert not apart, "rows of a group are asked at steps of their own; set asks_apart = True"

    def test_gradient_is_there_if_it_is_given(
        self, component: RewardPredictor, rollout: Rollout, judge: ToyJudge
    ) -> None:
        """The fit check relies on `gives`."""
        grad = component(rollout, judge).grad
        assert (grad is not None) == ("grad" in component.gives)
        assert grad is None or grad.shape == rollout.x0.shape

    def test_groups_do_not_influence_each_other(
        self, component: RewardPredictor, rollout: Rollout, judge: ToyJudge
    ) -> None:
        """They may be scored in chunks and in any order; rows of a group stay together."""
        groups = torch.tensor([3, 0, 2])
        order = (2 * groups[:, None] + torch.arange(2)).flatten()
        whole, part = component(rollout, judge), component(pick(rollout, order), judge)
        assert torch.allclose(part.value, whole.value[order], atol=1e-5)
        assert part.grad is None or torch.allclose(part.grad, _grad(whole)[order], atol=1e-5)


def full_rollout(policy: ToyPolicy, steps: int, group: int = 2, eta: float = 1.0) -> Rollout:
    """Return a rollout of the toy world with everything that a later stage may ask for."""
    rng = torch.Generator().manual_seed(0)
    prompts = policy.prompts(ComponentContract.text, group)
    rollout = walk(policy, policy.ddim(steps, eta), prompts, policy.timesteps(steps), rng)
    return replace(rollout, labels=torch.randn(len(prompts), generator=rng))


def only(needs: frozenset[str], rollout: Rollout) -> Rollout:
    """Return a rollout without what is not needed; an unneeded log_prob becomes NaN."""
    path = rollout.path
    if path is not None:
        path = replace(path, x0_hat=path.x0_hat if "x0_hat" in needs else None)
        if "log_prob" not in needs:
            path = replace(path, log_prob=torch.full_like(path.log_prob, torch.nan))
    keep = needs & {"path", "x0_hat", "log_prob"}
    return replace(
        rollout, path=path if keep else None, labels=rollout.labels if "labels" in needs else None
    )


def pick(rollout: Rollout, rows: Int[Tensor, "c"]) -> Rollout:
    """Return some rows of a rollout, in the given order."""
    path, take = rollout.path, _taker(rows)
    if path is not None:
        x0_hat = None if path.x0_hat is None else take(path.x0_hat)
        path = Path(path.kernel, take(path.log_prob), take(path.x), x0_hat)
    labels = None if rollout.labels is None else take(rollout.labels)
    prompts = rollout.prompts.pick(rows.tolist())
    return Rollout(prompts, rollout.times, take(rollout.x0), path, labels)


def _taker(rows: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor[rows]


def _grad(rewards: Rewards) -> Tensor:
    assert rewards.grad is not None
    return rewards.grad
