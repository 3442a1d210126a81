"""The suites take components that are right, though they differ from the installed ones."""

from typing import ClassVar

import pytest
from diffrl_ddpo.loss import ClippedRatio
from diffrl_sdpo.anchors import Anchors

from diffrl.builtin.reward_predictors import Terminal
from diffrl.builtin.update_schedulers import Groups, Pairs, RowsFirst
from diffrl.testing.contracts import (
    LossContract,
    RewardPredictorContract,
    UpdateSchedulerContract,
)
from diffrl.types import LossOut, last_step


class Relative(Terminal):
    """The score of a row less the mean of its group."""

    name: ClassVar[str] = "relative"

    def __call__(self, rollout, judge):
        rewards = super().__call__(rollout, judge)
        score, group = rewards.value[:, -1], rollout.prompts.group
        means = [score[group == number].mean() for number in group]
        centred = [one - mean for one, mean in zip(score, means, strict=True)]
        return type(rewards)(last_step(score.new_tensor(centred), len(rollout.times)))


class Plain(ClippedRatio):
    """Says a plain number of itself."""

    name: ClassVar[str] = "plain"

    def __call__(self, policy, batch):
        out = super().__call__(policy, batch)
        return LossOut(out.value, {**out.metrics, "rows": 4})


class TestRewardPredictors(RewardPredictorContract):
    @pytest.fixture(params=[Relative(), Anchors(anchor="random")], ids=["relative", "random"])
    def component(self, request):
        return request.param


SCHEDULERS = (
    RowsFirst(inner_epochs=2, timestep_fraction=0.5),
    RowsFirst(order="steps-in-order", skip_last=1, timestep_fraction=0.5),
    Pairs(choose="all", timestep_fraction=0.5),
    Pairs(order="trajectories", inner_epochs=2, timestep_fraction=0.5),
    Groups(inner_epochs=2, skip_last=2),
)


class TestUpdateSchedulers(UpdateSchedulerContract):
    @pytest.fixture(params=SCHEDULERS, ids=lambda one: one.name)
    def component(self, request):
        return request.param


class TestLoss(LossContract):
    @pytest.fixture
    def component(self):
        return Plain()
