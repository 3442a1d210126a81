"""DRaFT (arXiv:2309.17400) and AlignProp (arXiv:2310.03739): the reward's own gradient."""

from collections.abc import Iterator
from typing import ClassVar

import pytest
import torch
from pydantic import Field, PositiveInt

from diffrl.builtin.samplers import Ddim
from diffrl.recipe import Recipe
from diffrl.stages import (
    AdvantageEstimator,
    Judge,
    Loss,
    Policy,
    RewardPredictor,
    UpdateScheduler,
)
from diffrl.tensors import Generator
from diffrl.testing.contracts import (
    AdvantageEstimatorContract,
    LossContract,
    RewardPredictorContract,
    UpdateSchedulerContract,
)
from diffrl.testing.toy import TEXT, ToyJudge, ToyPolicy
from diffrl.types import (
    Advantages,
    Batch,
    LossOut,
    Memory,
    Minibatch,
    Prompts,
    Rewards,
    Rollout,
    gather,
    last_step,
)


class Gradient(RewardPredictor):
    """The terminal reward and its gradient to the final latent."""

    name: ClassVar[str] = "gradient"

    @property
    def gives(self) -> frozenset[str]:
        """The gradient."""
        return frozenset({"grad"})

    def __call__(self, rollout: Rollout, judge: Judge) -> Rewards:
        """Return rewards of shape `n T`."""
        last = torch.full((len(rollout),), len(rollout.times) - 1)
        score, grad = judge.grad(rollout.x0, rollout.prompts, last)
        return Rewards(last_step(score, len(rollout.times)), grad)

    def queries(self, steps: int) -> int:
        """One, at the end."""
        return 1


class AsIs(AdvantageEstimator):
    """The rewards themselves."""

    name: ClassVar[str] = "as-is"
    looks_ahead: ClassVar[bool] = False

    def __call__(
        self, rewards: Rewards, prompts: Prompts, memory: Memory
    ) -> tuple[Advantages, Memory]:
        """Return the rewards."""
        return Advantages(rewards.value, rewards.grad), memory


class FinalSteps(UpdateScheduler):
    """All rows and their final K steps in one minibatch and one optimizer step."""

    name: ClassVar[str] = "final-steps"
    arity: ClassVar[int] = 1
    last: PositiveInt = Field(2, description="K, how many steps carry gradient.")

    @property
    def commits_once(self) -> bool:
        """Always."""
        return True

    def __call__(
        self, prompts: Prompts, advantages: Advantages, rng: Generator
    ) -> Iterator[Minibatch]:
        """Yield one minibatch."""
        rows, steps = advantages.value.shape
        yield Minibatch(
            torch.arange(rows)[:, None],
            torch.arange(steps - self.trained(steps), steps).expand(rows, -1),
        )

    def trained(self, steps: int) -> int:
        """Return at most K."""
        return min(self.last, steps)


class BackPropagation(Loss):
    """-mean <dr/dx0, x0(theta)>, whose gradient is that of the reward through the final steps."""

    name: ClassVar[str] = "back-propagation"
    needs: ClassVar[frozenset[str]] = frozenset({"path", "grad"})
    on_policy: ClassVar[bool] = True

    def __call__(self, policy: Policy, batch: Batch) -> LossOut:
        """Return the loss of one batch."""
        assert batch.grad is not None
        return LossOut(-(batch.grad * policy.replay(batch)).flatten(2).sum(-1).mean())


DRAFT = Recipe(
    "tiny-draft",
    "arXiv:2309.17400",
    sampler=Ddim(steps=5, group=4),
    reward_predictor=Gradient(),
    advantage_estimator=AsIs(),
    update_scheduler=FinalSteps(),
    loss=BackPropagation(),
)


class TestGradient(RewardPredictorContract):
    @pytest.fixture
    def component(self):
        return Gradient()


class TestAsIs(AdvantageEstimatorContract):
    @pytest.fixture
    def component(self):
        return AsIs()


class TestFinalSteps(UpdateSchedulerContract):
    @pytest.fixture
    def component(self):
        return FinalSteps()


class TestBackPropagation(LossContract):
    @pytest.fixture
    def component(self):
        return BackPropagation()


def test_draft_raises_the_toy_score(gain):
    assert gain(DRAFT, epochs=30, learning_rate=5e-3) > 0.3


def test_draft_needs_no_noise_on_the_way(gain):
    still = DRAFT.but(sampler=DRAFT.sampler.model_copy(update={"eta": 0.0}))
    assert gain(still, epochs=30, learning_rate=5e-3) > 0.3


def test_replay_gives_the_gradient_of_backprop_through_sampling():
    policy, judge = ToyPolicy(dtype=torch.float64), ToyJudge()
    rollout = DRAFT.sampler(policy, TEXT, torch.Generator().manual_seed(0))
    rewards = DRAFT.reward_predictor(rollout, judge)
    advantages, _ = DRAFT.advantage_estimator(rewards, rollout.prompts, Memory())
    whole = FinalSteps(last=5)
    (minibatch,) = whole(rollout.prompts, advantages, torch.Generator())
    DRAFT.loss(policy, gather(rollout, advantages, minibatch)).value.backward()
    replayed = [p.grad.clone() for p in policy.parameters() if p.grad is not None]

    x, path = rollout.path.x[:, 0], rollout.path
    for k, t in enumerate(rollout.times.expand(len(rollout), -1).unbind(1)):
        step = path.kernel.transition(policy.predict(x, t, rollout.prompts.cond), t, x)
        drawn = (path.x[:, k + 1] - step.mean) / step.std
        x = step.mean + step.std * drawn.detach()
    score = judge(x, rollout.prompts, torch.zeros(len(x), dtype=torch.long)).mean()
    direct = torch.autograd.grad(-score, policy.parameters())
    for a, b in zip(replayed, direct, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-9)
