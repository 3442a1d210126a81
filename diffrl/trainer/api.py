"""`diffrl train` as functions: the same settings, the same messages, a `Run` in return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffrl import moments, shelf
from diffrl.paths import at_home
from diffrl.settings import layers
from diffrl.settings.layers import FLAGS, Flags
from diffrl.settings.resolve import load, resolve
from diffrl.trainer.run import Run


def train(
    algo: str,
    reward: str | Sequence[str] = (),
    *,
    preset: str = "emoji",
    model: str | Path | None = None,
    prompts: str | Path | None = None,
    preferences: str | Path | None = None,
    watch: Sequence[str] = (),
    reward_checkpoint: Mapping[str, str] | None = None,
    config: str | Path | Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    epochs: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    output: str | Path | None = None,
    live: bool = True,
    anyway: bool = False,
) -> Run:
    """Train as `diffrl train` does, and return the run.

    Args:
        algo: name of a recipe, as `diffrl list-plugins` prints it.
        reward: `name` or `name:weight`, or several of them; a function as `module:function`, a
            served one as `http://host:port`. Only `preferences` can do without.
        preset: what is trained: model, size, batch sizes.
        model: hub id or folder of a diffusers pipeline, in place of the preset's.
        prompts: `animals`, `unseen`, or a file with one prompt a line.
        preferences: JSON lines of judged pairs to learn from; the reward then only evaluates.
        watch: rewards to score with beside those that the preset watches.
        reward_checkpoint: weights of rewards by name, in place of the preset's.
        config: TOML file or nested mapping with settings.
        sets: single settings, `"loss.clip=2e-4"`.
        epochs: shortens or lengthens the preset.
        seed: of everything random.
        device: auto, cpu, cuda, cuda:<number> or mps.
        precision: fp32, bf16 or fp16.
        output: the run's own folder; default `runs/<algo>-<reward>-<date>`.
        live: show progress while training.
        anyway: begin even if the run needs more memory than there is, as `diffrl plan` counts it.

    Raises:
        DiffrlError: naming everything that is wrong, before any weights load.
    """
    from diffrl.trainer import run

    given = {"model": model, "prompts": prompts, "epochs": epochs, "seed": seed}
    given |= {"device": device, "precision": precision}
    stored = {}
    if preferences is not None:
        stored = layers.preferences(preferences, f"preferences={preferences}")
    moments.begin()
    settings = resolve(
        algo,
        [reward] if isinstance(reward, str) else list(reward),
        preset=preset,
        config=config if isinstance(config, Mapping | None) else Path(at_home(str(config))),
        sets=sets,
        flags={**stored, **_flags(given, reward_checkpoint or {})},
        watch=watch,
    )
    folder = None if output is None else Path(at_home(str(output)))
    return run(settings, output=folder, live=live, anyway=anyway)


def resume(
    folder: str | Path,
    *,
    sets: Sequence[str] = (),
    epochs: int | None = None,
    live: bool = True,
    anyway: bool = False,
) -> Run:
    """Continue a run as `diffrl train --resume` does, and return it.

    Args:
        folder: of the run. It goes on from its newest checkpoint, or from the beginning;
            `RUN@EPOCH` goes back to that checkpoint, `RUN@0` to the beginning.
        sets: single settings that change, `"eval.every=5"`.
        epochs: how many the whole run has.
        live: show progress while training.
        anyway: go on even if the run needs more memory than there is.

    Raises:
        DiffrlError: naming everything that is wrong, before any weights load.
    """
    from diffrl.trainer import run

    place, epoch = shelf.split(folder)
    moments.begin()
    settings = load(shelf.settings_of(place), sets, _flags({"epochs": epochs}, {}))
    return run(settings, resume=place, live=live, at=epoch, anyway=anyway)


def _flags(given: Mapping[str, Any], checkpoints: Mapping[str, str]) -> Flags:
    """Return what was given by the setting it stands for, with its origin."""
    found = {
        FLAGS[name]: (str(value) if isinstance(value, Path) else value, f"{name}={value}")
        for name, value in given.items()
        if value is not None
    }
    for name, ref in checkpoints.items():
        found[f"rewards.{name}.checkpoint"] = (str(ref), f"reward_checkpoint {name}={ref}")
    return found


__all__ = ["resume", "train"]
