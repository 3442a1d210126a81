"""What `diffrl train` does."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from diffrl.cli.tables import preset_line, settings_lines
from diffrl.errors import ResumeError, SettingsError
from diffrl.settings import Settings
from diffrl.settings.layers import FLAGS, Flags, preferences
from diffrl.settings.resolve import load, resolve

SETTINGS = "settings.toml"


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    algo: str | None
    rewards: Sequence[str]
    preset: str | None
    config: Path | None
    sets: Sequence[str]
    flags: Flags


def flags(given: Mapping[str, Any], checkpoints: Sequence[str]) -> Flags:
    """Return the flags that were given, by the setting they stand for.

    Raises:
        SettingsError: if a reward checkpoint is not NAME=REF.
    """
    plain = {k: v for k, v in given.items() if k in FLAGS and v is not None}
    stored = given.get("preferences")
    found = {} if stored is None else preferences(stored, f"--preferences {stored}")
    found |= {FLAGS[k]: (v, f"--{k} {v}") for k, v in plain.items()}
    for text in checkpoints:
        name, equals, ref = text.partition("=")
        if not (name and equals and ref):
            raise SettingsError([f"--reward-checkpoint {text}: expected NAME=REF"])
        found[f"rewards.{name}.checkpoint"] = (ref, f"--reward-checkpoint {text}")
    return found


def train(request: Request, output: Path | None, resume: Path | None, dry_run: bool) -> None:
    """Resolve settings, say what is about to run, and run it."""
    settings = _resumed(request, resume, output) if resume else _new(request)
    if dry_run:
        typer.echo("\n".join(settings_lines(settings)))
        return
    if os.environ.get("RANK", "0") == "0":
        typer.echo(preset_line(settings.preset))
    from diffrl.trainer import run

    run(settings, output=output, resume=resume, live=True)


def _new(request: Request) -> Settings:
    if request.algo is None:
        from diffrl.registry import registry

        known = ", ".join(registry().components("algorithm")) or "none is installed"
        raise SettingsError([f"no algorithm; add --algo NAME. Known: {known}."])
    return resolve(
        request.algo,
        request.rewards,
        request.preset or "emoji",
        request.config,
        request.sets,
        request.flags,
    )


def _resumed(request: Request, folder: Path, output: Path | None) -> Settings:
    """Return a run's own settings with the overrides given.

    Raises:
        ResumeError: if the folder holds no run, or something else than that run is asked for.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise ResumeError(f"--resume {folder}: no {SETTINGS} there; expected a run's folder")
    settings = load(path, request.sets, request.flags)
    used = [r.reward.name for r in settings.rewards]
    asked = [spec.partition(":")[0] for spec in request.rewards]
    if request.algo not in (None, settings.recipe.name):
        raise ResumeError(
            f"--algo {request.algo}: {folder} was run with {settings.recipe.name!r}; leave it out"
        )
    if asked and sorted(asked) != sorted(used):
        raise ResumeError(
            f"--reward {', '.join(asked)}: {folder} was run with {', '.join(used)}; leave it out"
        )
    weights = {w.reward.name: w.weight for w in settings.rewards}
    for name, colon, weight in (spec.partition(":") for spec in request.rewards):
        if colon and weight != f"{weights[name]:g}":
            raise ResumeError(
                f"--reward {name}:{weight}: {folder} weighs {name} with {weights[name]:g}; to "
                f"change that use --set rewards.{name}.weight={weight}"
            )
    if request.preset not in (None, settings.preset):
        raise ResumeError(
            f"--preset {request.preset}: {folder} was run with {settings.preset!r}; leave it out"
        )
    for option, value in [("--config", request.config), ("--output", output)]:
        if value is not None:
            raise ResumeError(f"{option} {value}: cannot be given with --resume {folder}")
    return settings
