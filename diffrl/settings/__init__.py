"""Settings: five stages and eight sections, every value with its origin."""

from __future__ import annotations

from diffrl.settings.resolved import Settings, WeightedReward
from diffrl.settings.sections import (
    SECTIONS,
    AdapterSettings,
    CheckpointSettings,
    EvalSettings,
    ModelSettings,
    OptimizerSettings,
    Section,
    TrainSettings,
    WatchdogSettings,
)
from diffrl.settings.speed import SpeedSettings

__all__ = [
    "SECTIONS",
    "AdapterSettings",
    "CheckpointSettings",
    "EvalSettings",
    "ModelSettings",
    "OptimizerSettings",
    "Section",
    "Settings",
    "SpeedSettings",
    "TrainSettings",
    "WatchdogSettings",
    "WeightedReward",
]
