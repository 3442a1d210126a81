"""What `diffrl train` does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from diffrl import moments
from diffrl.cli.tables import preset_line, settings_lines
from diffrl.errors import ResumeError, SettingsError, quoted
from diffrl.settings import Settings
from diffrl.settings.layers import FLAGS, Flags, preferences
from diffrl.settings.resolve import load, resolve
from diffrl.settings.rewards import read_spec
from diffrl.shelf import settings_of, split


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    algo: str | None
    rewards: Sequence[str]
    preset: str | None
    config: Path | None
    sets: Sequence[str]
    flags: Flags
    watch: Sequence[str] = ()


def flags(given: Mapping[str, Any], checkpoints: Sequence[str], track: Sequence[str] = ()) -> Flags:
    """Return the flags that were given, by the setting they stand for.

    Raises:
        SettingsError: if a reward checkpoint is not NAME=REF.
    """
    plain = {k: v for k, v in given.items() if k in FLAGS and v is not None}
    stored = given.get("preferences")
    found = {} if stored is None else preferences(stored, f"--preferences {stored}")
    found |= {FLAGS[k]: (v, f"--{k} {v}") for k, v in plain.items()}
    if track:
        origin = " ".join(f"--track {name}" for name in track)
        found["train.track"] = (list(dict.fromkeys(["tensorboard", *track])), origin)
    for text in checkpoints:
        name, equals, ref = text.partition("=")
        if not (name and equals and ref):
            raise SettingsError([f"--reward-checkpoint {text}: expected NAME=REF"])
        found[f"rewards.{name}.checkpoint"] = (ref, f"--reward-checkpoint {text}")
    return found


def train(
    request: Request,
    output: Path | None,
    resume: Path | None,
    dry_run: bool,
    show: bool = False,
    anyway: bool = False,
) -> None:
    """Resolve settings, say what is about to run, run it, and write a report."""
    epoch = None
    if resume:
        resume, epoch = split(resume)
    settings = resumed(request, resume, output) if resume else new(request)
    if dry_run:
        typer.echo("\n".join(settings_lines(settings)))
        return
    if os.environ.get("RANK", "0") == "0":
        typer.echo(preset_line(settings.preset))
    with moments.loading():
        from diffrl.trainer import run

    done = run(settings, output=output, resume=resume, live=True, at=epoch, anyway=anyway)
    if os.environ.get("RANK", "0") == "0":
        typer.echo(f"report: {written(done.folder, show)}")


def written(folder: Path, show: bool) -> str:
    """Write the report of a run that has ended; return where it is, or why it is not."""
    from diffrl.cli.report import open_in_browser
    from diffrl.folder import REPORT
    from diffrl.report import write_report

    try:
        write_report([folder], folder / REPORT)
    except Exception as error:  # the run itself is safe and whole
        return f"not written ({type(error).__name__}: {error}); try: diffrl report {quoted(folder)}"
    if show:
        open_in_browser(folder / REPORT)
    return str(folder / REPORT)


def new(request: Request) -> Settings:
    """Return the settings of a new run.

    Raises:
        SettingsError: naming everything that is wrong at once.
    """
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
        watch=request.watch,
    )


def resumed(request: Request, folder: Path, output: Path | None) -> Settings:
    """Return a run's own settings with the overrides given.

    Raises:
        ResumeError: if the folder holds no run, or something else than that run is asked for.
    """
    settings = load(settings_of(folder), request.sets, request.flags)
    used = [r.reward.name for r in settings.rewards]
    if request.algo not in (None, settings.recipe.name):
        raise ResumeError(
            f"--algo {request.algo}: {folder} was run with {settings.recipe.name!r}; leave it out"
        )
    asked = [read_spec(spec) for spec in request.rewards]
    if asked and sorted(one.name for one in asked) != sorted(used):
        given = ", ".join(request.rewards)
        raise ResumeError(
            f"--reward {given}: {folder} was run with {', '.join(used)}; leave it out"
        )
    weights = {w.reward.name: w.weight for w in settings.rewards}
    rewards = {w.reward.name: w.reward for w in settings.rewards}
    for one in asked:
        for field in ("url", "path"):
            now = one.reward.model_fields.get(field)
            then = getattr(rewards[one.name], field, None)
            if now is not None and now.default != then:
                raise ResumeError(
                    f"--reward {one.name}={now.default}: {folder} was run with {then}; to change "
                    f"that use --set rewards.{one.name}.{field}={now.default}"
                )
    for one in asked:
        if one.weight is not None and not _reads(one.weight, weights[one.name]):
            raise ResumeError(
                f"--reward {one.name}:{one.weight}: {folder} weighs {one.name} with "
                f"{weights[one.name]:g}; to change that use "
                f"--set rewards.{one.name}.weight={one.weight}"
            )
    if request.preset not in (None, settings.preset):
        raise ResumeError(
            f"--preset {request.preset}: {folder} was run with {settings.preset!r}; leave it out"
        )
    watch = " ".join(request.watch) or None
    for option, value in [
        ("--config", request.config), ("--output", output), ("--watch", watch)
    ]:  # fmt: skip
        if value is not None:
            raise ResumeError(f"{option} {value}: cannot be given with --resume {folder}")
    return settings


def _reads(text: str, number: float) -> bool:
    """Return whether a text is that number, however it is written."""
    with contextlib.suppress(ValueError):
        return float(text) == number
    return False
