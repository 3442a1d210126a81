"""Suites that every component passes; a plugin's tests subclass the one for its kind.

A subclass supplies one fixture, `component`, and inherits tests whose names are sentences. Other
fixtures (`policy`, `judge`, `rollout`, ...) are the toy world and may be overridden as well.
"""
# ruff: noqa: E402

import pytest

# So that failures show their values, as those in a plugin's own files do.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in (
            "advantage_estimator",
            "component",
            "loss",
            "reward",
            "reward_predictor",
            "same",
            "sampler",
            "update_scheduler",
        )
    )
)

from diffrl.testing.contracts.advantage_estimator import AdvantageEstimatorContract
from diffrl.testing.contracts.component import ComponentContract
from diffrl.testing.contracts.loss import LossContract
from diffrl.testing.contracts.reward import RewardContract
from diffrl.testing.contracts.reward_predictor import RewardPredictorContract
from diffrl.testing.contracts.sampler import SamplerContract
from diffrl.testing.contracts.update_scheduler import UpdateSchedulerContract

__all__ = [
    "AdvantageEstimatorContract",
    "ComponentContract",
    "LossContract",
    "RewardContract",
    "RewardPredictorContract",
    "SamplerContract",
    "UpdateSchedulerContract",
]
