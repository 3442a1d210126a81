"""DDPO (arXiv:2305.13301): PPO on every denoising step of independent rows."""

from typing import ClassVar

import pytest
import torch
from pydantic import Field, PositiveFloat

from diffrl.builtin.advantages import Returns
from diffrl.builtin.reward_predictors import Terminal
from diffrl.builtin.samplers import Ddim
from diffrl.builtin.update_schedulers import RowsFirst
from diffrl.recipe import Recipe
from diffrl.stages import Judge, Loss, Policy, RewardPredictor
from diffrl.testing.contracts import LossContract
from diffrl.types import Batch, LossOut, Rewards, Rollout, last_step


class ClippedRatio(Loss):
    """mean max(-A r, -A clip(r, 1 - c, 1 + c)), r = exp(log_prob - log_prob at sampling)."""

    name: ClassVar[str] = "clipped-ratio"
    needs: ClassVar[frozenset[str]] = frozenset({"log_prob"})
    clip: PositiveFloat = Field(0.1, description="Half-width of the trusted ratios.")

    def __call__(self, policy: Policy, batch: Batch) -> LossOut:
        """Return the loss of one batch."""
        ratio = (policy.log_prob(batch) - batch.log_prob).exp()
        gain = torch.minimum(
            batch.advantage * ratio,
            batch.advantage * ratio.clamp(1 - self.clip, 1 + self.clip),
        )
        return LossOut(-gain.mean(), {"ratio_max": ratio.max().detach()})


DDPO = Recipe(
    "tiny-ddpo",
    "arXiv:2305.13301",
    sampler=Ddim(steps=5, group=8),
    reward_predictor=Terminal(),
    advantage_estimator=Returns(gamma=1.0, per="prompt"),
    update_scheduler=RowsFirst(rows_per_update=8, skip_last=1),
    loss=ClippedRatio(),
)


class Lottery(RewardPredictor):
    """Rewards that have nothing to do with the rows."""

    name: ClassVar[str] = "lottery"

    def __call__(self, rollout: Rollout, judge: Judge) -> Rewards:
        """Return rewards drawn by what the noise happened to be."""
        seed = int(rollout.x0.double().sum().abs() * 1e6) % 2**31
        rng = torch.Generator().manual_seed(seed)
        return Rewards(last_step(torch.randn(len(rollout), generator=rng), len(rollout.times)))

    def queries(self, steps: int) -> int:
        """None."""
        return 0


class TestClippedRatio(LossContract):
    @pytest.fixture
    def component(self):
        return ClippedRatio()


def test_ddpo_raises_the_toy_score(gain):
    assert gain(DDPO, epochs=30, learning_rate=5e-3) > 0.3


def test_rewards_that_know_nothing_raise_nothing(gain):
    """The control: what the other tests measure is learned from the reward."""
    recipe = DDPO.but(reward_predictor=Lottery())
    assert gain(recipe, epochs=30, learning_rate=5e-3) < 0.1
