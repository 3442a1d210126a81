"""DDPO (arXiv:2305.13301): PPO on every denoising step of independent rows."""

from typing import ClassVar

import torch
from diffrl_ddpo import DDPO, ClippedRatio

from diffrl.builtin.advantages import Returns
from diffrl.builtin.samplers import Ddim
from diffrl.builtin.update_schedulers import RowsFirst
from diffrl.stages import Judge, RewardPredictor
from diffrl.types import Rewards, Rollout, last_step

TINY = DDPO.but(
    name="tiny-ddpo",
    sampler=Ddim(steps=5, group=8),
    advantage_estimator=Returns(gamma=1.0, per="prompt"),
    update_scheduler=RowsFirst(rows_per_update=8, skip_last=1),
    loss=ClippedRatio(clip=0.1),
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


def test_ddpo_raises_the_toy_score(gain):
    assert gain(TINY, epochs=30, learning_rate=5e-3) > 0.3


def test_rewards_that_know_nothing_raise_nothing(gain):
    """The control: what the other tests measure is learned from the reward."""
    recipe = TINY.but(reward_predictor=Lottery())
    assert gain(recipe, epochs=30, learning_rate=5e-3) < 0.1
