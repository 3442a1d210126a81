"""The hooks a plugin may implement.

Names form a closed set: every plugin's list is collected, and a name registered twice is refused.
Model and prompt references are an open set of strings: the first plugin that knows a reference
opens it. Observers are all called, and cannot change the run: of one that fails, that is noticed.

A plugin says which version of this interface it was written for, `diffrl_api = 1`. One that was
written for another is not used. One that says nothing is taken at its word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diffrl.events import EpochDone, Evaluated, Noticed, RolloutDone, RunDone, RunStarted
    from diffrl.recipe import Recipe
    from diffrl.stages import (
        AdvantageEstimator,
        Loss,
        Reward,
        RewardPredictor,
        Sampler,
        UpdateScheduler,
    )

PROJECT = "diffrl"
API = 1
"""Raised whenever a plugin that worked before would not any more."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def diffrl_samplers() -> Sequence[type[Sampler]]:  # pyright: ignore[reportReturnType]
    """Return sampler classes."""


@hookspec
def diffrl_reward_predictors() -> Sequence[type[RewardPredictor]]:  # pyright: ignore[reportReturnType]
    """Return reward predictor classes."""


@hookspec
def diffrl_advantage_estimators() -> Sequence[type[AdvantageEstimator]]:  # pyright: ignore[reportReturnType]
    """Return advantage estimator classes."""


@hookspec
def diffrl_update_schedulers() -> Sequence[type[UpdateScheduler]]:  # pyright: ignore[reportReturnType]
    """Return update scheduler classes."""


@hookspec
def diffrl_losses() -> Sequence[type[Loss]]:  # pyright: ignore[reportReturnType]
    """Return loss classes."""


@hookspec
def diffrl_rewards() -> Sequence[type[Reward]]:  # pyright: ignore[reportReturnType]
    """Return reward classes, whose names `--reward` accepts."""


@hookspec
def diffrl_algorithms() -> Sequence[Recipe]:  # pyright: ignore[reportReturnType]
    """Return recipes, whose names `--algo` accepts."""


@hookspec(firstresult=True)
def diffrl_open_model(ref: str) -> object | None:
    """Return the diffusers pipeline that a model reference names, or None if it is not yours."""


@hookspec(firstresult=True)
def diffrl_open_prompts(ref: str) -> Sequence[str] | None:
    """Return the prompts that a reference names, or None if it is not yours."""


@hookspec
def diffrl_run_started(event: RunStarted) -> None:
    """Watch a run begin, before its first pictures are drawn."""


@hookspec
def diffrl_rollout_done(event: RolloutDone) -> None:
    """Watch an epoch's rollout and rewards, before any update."""


@hookspec
def diffrl_update_done(event: EpochDone) -> None:
    """Watch the end of an epoch: its metrics."""


@hookspec
def diffrl_evaluated(event: Evaluated) -> None:
    """Watch an evaluation: pictures on fixed seeds, and their scores."""


@hookspec
def diffrl_noticed(event: Noticed) -> None:
    """Watch a run notice something: a check that failed, a rule that was broken."""


@hookspec
def diffrl_run_done(event: RunDone) -> None:
    """Watch a run end."""
