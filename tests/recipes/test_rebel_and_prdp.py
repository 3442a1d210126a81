"""REBEL (arXiv:2404.16767) and PRDP (arXiv:2402.08714): regression on whole paths of a pair."""

from typing import ClassVar

import pytest
import torch
from pydantic import Field, PositiveFloat

from diffrl.builtin.advantages import Returns
from diffrl.builtin.reward_predictors import Terminal
from diffrl.builtin.samplers import Ddim
from diffrl.builtin.update_schedulers import Pairs
from diffrl.recipe import Recipe
from diffrl.stages import Loss, Policy
from diffrl.testing.contracts import LossContract
from diffrl.types import Batch, LossOut


class RelativeReward(Loss):
    """mean ((R_a - R_b)/eta - (A_a - A_b))², R the sum over steps of log(pi / pi at sampling)."""

    name: ClassVar[str] = "relative-reward"
    needs: ClassVar[frozenset[str]] = frozenset({"log_prob"})
    arity: ClassVar[int] = 2
    eta: PositiveFloat = Field(0.1, description="Nats of log-ratio per unit of advantage.")

    def __call__(self, policy: Policy, batch: Batch) -> LossOut:
        """Return the loss of one batch."""
        log_ratio = (policy.log_prob(batch) - batch.log_prob).sum(2)  # m k
        wanted = batch.advantage.mean(2)  # m k
        error = log_ratio.diff(dim=1) / self.eta - wanted.diff(dim=1)
        return LossOut(error.square().mean())


class ProximalRelativeReward(Loss):
    """As RelativeReward towards the base model, each step clipped around the sampling policy."""

    name: ClassVar[str] = "proximal-relative-reward"
    needs: ClassVar[frozenset[str]] = frozenset({"log_prob", "base"})
    arity: ClassVar[int] = 2
    beta: PositiveFloat = Field(1.0, description="Reward per nat away from the base model.")
    clip: PositiveFloat = Field(0.1, description="Nats a step may move from the sampling policy.")

    def __call__(self, policy: Policy, batch: Batch) -> LossOut:
        """Return the loss of one batch."""
        assert batch.log_prob is not None
        log_prob, base = policy.log_prob(batch), policy.log_prob(batch, "base")
        near = log_prob.clamp(batch.log_prob - self.clip, batch.log_prob + self.clip)
        wanted = batch.advantage.mean(2) / self.beta
        errors = [((lp - base).sum(2) - wanted).diff(dim=1).square() for lp in (log_prob, near)]
        return LossOut(torch.maximum(*errors).mean())


REBEL = Recipe(
    "tiny-rebel",
    "arXiv:2404.16767",
    sampler=Ddim(steps=5, group=8),
    reward_predictor=Terminal(),
    advantage_estimator=Returns(gamma=1.0, per="prompt"),
    update_scheduler=Pairs(order="trajectories", per_update=4, skip_last=1),
    loss=RelativeReward(),
)
PRDP = REBEL.but(name="tiny-prdp", source="arXiv:2402.08714", loss=ProximalRelativeReward())


class TestRelativeReward(LossContract):
    @pytest.fixture
    def component(self):
        return RelativeReward()


class TestProximalRelativeReward(LossContract):
    @pytest.fixture
    def component(self):
        return ProximalRelativeReward()


@pytest.mark.parametrize("recipe", [REBEL, PRDP], ids=lambda r: r.name)
def test_whole_path_regression_raises_the_toy_score(gain, recipe):
    assert gain(recipe, epochs=60, learning_rate=2e-3) > 0.3
