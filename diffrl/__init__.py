"""Reinforcement-learning finetuning of diffusion models, every method a recipe of five parts.

Names load when first used, so that `import diffrl` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffrl.hookspecs import hookimpl
    from diffrl.recipe import Recipe
    from diffrl.settings import Settings
    from diffrl.stages import (
        AdvantageEstimator,
        Component,
        Judge,
        Loss,
        Policy,
        Reward,
        RewardPredictor,
        Sampler,
        UpdateScheduler,
    )
    from diffrl.trainer import Run, resume, train
    from diffrl.types import (
        Advantages,
        Batch,
        LossOut,
        Memory,
        Minibatch,
        Path,
        Prompts,
        Rewards,
        Rollout,
        Transition,
    )

    __version__: str

_HOME = {
    "hookimpl": "hookspecs",
    "Recipe": "recipe",
    "Settings": "settings",
    "Run": "trainer",
    "resume": "trainer",
    "train": "trainer",
    **dict.fromkeys(
        (
            "AdvantageEstimator",
            "Component",
            "Judge",
            "Loss",
            "Policy",
            "Reward",
            "RewardPredictor",
            "Sampler",
            "UpdateScheduler",
        ),
        "stages",
    ),
    **dict.fromkeys(
        (
            "Advantages",
            "Batch",
            "LossOut",
            "Memory",
            "Minibatch",
            "Path",
            "Prompts",
            "Rewards",
            "Rollout",
            "Transition",
        ),
        "types",
    ),
}

__all__ = [
    "AdvantageEstimator",
    "Advantages",
    "Batch",
    "Component",
    "Judge",
    "Loss",
    "LossOut",
    "Memory",
    "Minibatch",
    "Path",
    "Policy",
    "Prompts",
    "Recipe",
    "Reward",
    "RewardPredictor",
    "Rewards",
    "Rollout",
    "Run",
    "Sampler",
    "Settings",
    "Transition",
    "UpdateScheduler",
    "__version__",
    "hookimpl",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOME:
        raise AttributeError(f"module 'diffrl' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"diffrl.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("diffrl")
    except PackageNotFoundError:
        return "0+source"
