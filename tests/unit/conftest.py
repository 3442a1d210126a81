"""An algorithm of throwaway stages, so that settings are tested without the real ones."""

import sys
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from pydantic import Field, PositiveFloat, model_validator

from diffrl import (
    AdvantageEstimator,
    Loss,
    Recipe,
    Reward,
    RewardPredictor,
    Sampler,
    UpdateScheduler,
    hookimpl,
)
from diffrl.registry import registry

sys.path.insert(0, str(Path(__file__).parent))  # for `peak`, which lies beside the tests


class Walk(Sampler):
    """Gives everything."""

    name: ClassVar[str] = "try-walk"
    steps: int = 4
    group: int = 1
    eta: float = 1.0

    @property
    def gives(self):
        return frozenset({"x0", "x0_hat", "path", "log_prob"})


class Jump(Sampler):
    """Gives x0 alone."""

    name: ClassVar[str] = "try-jump"
    steps: int = 4
    group: int = 1

    @property
    def gives(self):
        return frozenset({"x0"})


class Guess(RewardPredictor):
    """Needs x0_hat."""

    name: ClassVar[str] = "try-guess"
    needs: ClassVar[frozenset[str]] = frozenset({"x0_hat"})
    anchor: Literal["adaptive", "random", "fixed"] = "fixed"


class Mean(AdvantageEstimator):
    """Has no fields."""

    name: ClassVar[str] = "try-mean"


class Order(UpdateScheduler):
    """Single rows."""

    name: ClassVar[str] = "try-order"
    arity: ClassVar[int] = 1
    skip_last: int = 0

    def trained(self, steps):
        return steps - self.skip_last


class Clipped(Loss):
    """Has a clip range."""

    name: ClassVar[str] = "try-clipped"
    clip: PositiveFloat = 1e-4
    limit: float | None = Field(5.0)


class Tempered(Loss):
    """Has a temperature, which must be given, and a range."""

    name: ClassVar[str] = "try-tempered"
    temperature: PositiveFloat
    low: float = Field(0.0, allow_inf_nan=True)
    high: float = 1.0

    @model_validator(mode="after")
    def _ordered(self):
        if self.low > self.high:
            raise ValueError("low should not be above high")
        return self


class Taste(Reward):
    """Has weights."""

    name: ClassVar[str] = "try-taste"
    checkpoint: str = "somewhere"


class Tally(Reward):
    """Has no fields."""

    name: ClassVar[str] = "try-tally"


RECIPE = Recipe(
    "try-algo",
    "nowhere",
    sampler=Walk(),
    reward_predictor=Guess(anchor="adaptive"),
    advantage_estimator=Mean(),
    update_scheduler=Order(),
    loss=Clipped(clip=2e-4),
)


class Toys:
    @hookimpl
    def diffrl_samplers(self):
        return [Walk, Jump]

    @hookimpl
    def diffrl_reward_predictors(self):
        return [Guess]

    @hookimpl
    def diffrl_advantage_estimators(self):
        return [Mean]

    @hookimpl
    def diffrl_update_schedulers(self):
        return [Order]

    @hookimpl
    def diffrl_losses(self):
        return [Clipped, Tempered]

    @hookimpl
    def diffrl_rewards(self):
        return [Taste, Tally]

    @hookimpl
    def diffrl_algorithms(self):
        return [RECIPE]


@pytest.fixture
def toys():
    """Registers the throwaway stages for one test."""
    plugin = Toys()
    registry().register(plugin, "toys-for-tests", "toys", "1.0")
    yield plugin
    registry().unregister(plugin)
