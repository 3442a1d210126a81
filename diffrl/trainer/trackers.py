"""TensorBoard, Weights & Biases and the other trackers that accelerate knows."""

from __future__ import annotations

import importlib.util
import os
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from diffrl.errors import SettingsError, did_you_mean, one_line, quoted
from diffrl.events import EpochDone, Evaluated, Noticed, RunStarted
from diffrl.folder import write
from diffrl.hookspecs import hookimpl
from diffrl.settings import Settings
from diffrl.settings.saved import tables
from diffrl.trainer.pictures import grid

if TYPE_CHECKING:
    from accelerate import Accelerator

PROJECT = "diffrl"
PACKAGES = {"comet_ml": "comet-ml"}
"""What to install, where it is not called as the tracker is."""

ONE = ("aim", "clearml")
"""Trackers that take a picture and not a list of them."""


class TrackerObserver:
    """Hands metrics and image grids to every tracker that a run names in `train.track`."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.essential = True  # until it has started: who asked for a tracker is told at once

    @hookimpl
    def diffrl_run_started(self, event: RunStarted) -> None:
        """Open the trackers: TensorBoard in the run's folder, others where they keep their runs."""
        made: Any = self._accelerator
        track = event.settings.train.track
        os.environ.setdefault("WANDB_SILENT", "true")  # or it writes into the live table
        opened = []
        for name in track:  # one by one: they differ in what they call a project
            made.log_with, made.trackers = [name], []
            project = "tensorboard" if name == "tensorboard" else PROJECT
            try:
                made.init_trackers(project, init_kwargs={name: options(name, event)})
                for tracker in (t for t in made.trackers if t.name != "tensorboard"):
                    tracker.store_init_configuration(flat(event.settings))
            except Exception as error:
                made.trackers = opened
                raise SettingsError([_unstarted(name, error, event)]) from error
            opened += made.trackers
        made.log_with, made.trackers = list(track), opened
        self.essential = False

    @hookimpl
    def diffrl_update_done(self, event: EpochDone) -> None:
        """Log the epoch's metrics."""
        self._each(lambda tracker: tracker.log(dict(event.metrics), step=event.epoch))

    def _each(self, act: Callable[[Any], None]) -> None:
        """Do something with every tracker, also after one that fails."""
        failed = []
        for tracker in self._accelerator.trackers:
            try:
                act(tracker)
            except Exception as error:
                failed.append(error)
        if failed:
            raise failed[0]

    @hookimpl
    def diffrl_noticed(self, event: Noticed) -> None:
        """Let TensorBoard forget the epochs that a run goes back on; others keep their points."""
        if event.back_to is None:
            return
        for tracker in (t for t in self._accelerator.trackers if t.name == "tensorboard"):
            tracker.writer.close()  # the next value opens it again, from that step on
            tracker.writer.purge_step = event.back_to + 1

    @hookimpl
    def diffrl_evaluated(self, event: Evaluated) -> None:
        """Log the image grid, to trackers that take pictures."""
        picture = numpy.asarray(grid(event.images, event.steps, event.prompts))

        def shown(tracker: Any) -> None:
            shape = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            given = picture if tracker.name in ONE else picture[None]
            if hasattr(tracker, "log_images"):
                tracker.log_images({"pictures": given}, step=event.epoch, **shape)

        self._each(shown)


def options(name: str, event: RunStarted) -> dict[str, Any]:
    """Return what a tracker is told at its start, so that a resumed run goes on in its place."""
    if name == "tensorboard":
        return {"purge_step": event.epoch + 1 if event.epoch else 0}
    if name == "wandb":
        path = event.folder / "wandb-id"
        if not event.epoch or not path.exists():
            write(path, secrets.token_hex(6))
        own = path.read_text("utf-8")
        folder = event.folder.absolute()
        return {"name": folder.name, "id": own, "dir": str(folder), "resume": "allow"}
    return {}


def flat(settings: Settings) -> dict[str, str | int | float | bool]:
    """Return all settings, by dotted key."""
    found: dict[str, Any] = {"algo": settings.recipe.name, "preset": settings.preset}
    for path, _, values in tables(settings):
        found |= {f"{path}.{name}": value for name, value in values.items()}
    return {k: v if isinstance(v, bool | int | float) else str(v) for k, v in found.items()}


def tracker_problems(track: Sequence[str]) -> list[str]:
    """Return what keeps trackers from working, one line each."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS as KNOWN

    found = []
    for name in track:
        if name not in KNOWN:
            hint = did_you_mean(name, KNOWN)
            found.append(f"train.track: no tracker is called {name!r}.{hint}")
        elif importlib.util.find_spec(name) is None:
            package = PACKAGES.get(name, name)
            found.append(f"train.track: {name!r} is not installed; pip install {package}")
        elif name == "wandb" and not _knows_wandb():
            found.append("train.track: 'wandb' does not know who you are; run wandb login, or set "
                         "WANDB_MODE=offline")  # fmt: skip
    return found


def _knows_wandb() -> bool:
    """Return whether Weights & Biases has a key, needs none, or cannot be asked.

    `wandb offline` leaves its word in a file, WANDB_MODE in the environment; both are its settings.
    """
    try:
        import wandb

        return wandb.setup().settings.mode not in (None, "online") or bool(wandb.api.api_key)
    except Exception:
        return True


def _unstarted(name: str, error: Exception, event: RunStarted) -> str:
    told = one_line(str(error))[:200]
    again = f"diffrl train --resume {quoted(event.folder)}"
    return f"train.track: {name!r} did not start: {told}; once it can, go on with: {again}"
