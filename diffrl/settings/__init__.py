"""Settings: five stages and six sections, every value with its origin."""

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

__all__ = [
    "SECTIONS",
    "AdapterSettings",
    "CheckpointSettings",
    "EvalSettings",
    "ModelSettings",
    "OptimizerSettings",
    "Section",
    "Settings",
    "TrainSettings",
    "WatchdogSettings",
    "WeightedReward",
]
