"""What a run writes into its folder while it goes on: metrics, scores, image grids."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from diffrl.events import EpochDone, Evaluated, Noticed, RunStarted
from diffrl.folder import (
    EVALUATION,
    EVALUATIONS,
    IMAGES,
    METRICS,
    NOTICES,
    append_line,
    evaluation_file,
    read_lines,
    read_metrics,
    read_object,
    write,
)
from diffrl.hookspecs import hookimpl
from diffrl.shelf import sync
from diffrl.trainer.packing import write_tensors
from diffrl.trainer.pictures import before_after, grid

LAST, BEFORE = "before-after.png", "before.safetensors"


def record(folder: Path, event: Evaluated, rewards: Mapping[str, Any]) -> None:
    """Write what an evaluation found of every picture, and with which settings of rewards."""
    scores = {
        name: [None if value != value else value for value in found.tolist()]
        for name, found in event.each.items()
    }
    (folder / EVALUATIONS).mkdir(exist_ok=True)
    content = {
        "epoch": event.epoch,
        "prompts": event.text,
        "lower_is_better": event.lower_is_better,
        "groupwise": event.groupwise,
        "rewards": rewards,
        "scores": scores,
        "by_prompt": {name: dict(found) for name, found in event.by_prompt.items()},
    }
    write(evaluation_file(folder, event.epoch), json.dumps(content) + "\n")


def forget(folder: Path, epoch: int, epochs: int) -> None:
    """Drop what epochs left that a resumed run will make again, of weights that are gone."""
    later = [
        path
        for place in (EVALUATIONS, IMAGES)
        for path in (folder / place).glob("[0-9]*")
        if path.stem.isdecimal() and (not epoch or int(path.stem) > epoch)
    ]
    if later or epoch < epochs:  # first: it may be of later weights
        (folder / IMAGES / LAST).unlink(missing_ok=True)
    for path in later:
        path.unlink()
    if evaluated_at(folder) > epoch:
        (folder / EVALUATION).unlink()


def evaluated_at(folder: Path) -> int:
    """Return the epoch that `diffrl eval` judged a run at, -1 if it did not or nobody can tell."""
    try:
        found = read_object(folder / EVALUATION)
        return int(found["subjects"][found["own"]]["epoch"])
    except (OSError, ValueError, KeyError, TypeError):
        return -1


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        picture.save(file, path.suffix[1:])
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


class FolderObserver:
    """Writes into the run's folder. One line of `metrics.jsonl` per epoch, flushed at once."""

    essential: ClassVar[bool] = True
    """Whether its errors are the run's."""

    def __init__(self) -> None:
        self._folder = Path()
        self._told = -1
        self._epochs = 0
        self._rewards: dict[str, Any] = {}

    @hookimpl
    def diffrl_run_started(self, event: RunStarted) -> None:
        """Drop what a resumed run will write again."""
        self._folder, self._epochs = event.folder, event.settings.train.epochs
        every = [*(w.reward for w in event.settings.rewards), *event.settings.watched]
        self._rewards = {reward.name: reward.identity() for reward in every}
        kept = [m for m in read_metrics(event.folder) if event.epoch and m["epoch"] <= event.epoch]
        self._told = int(kept[-1]["epoch"]) if kept else -1
        write(event.folder / METRICS, "".join(json.dumps(m) + "\n" for m in kept))
        path = event.folder / NOTICES
        if not event.epoch:
            path.unlink(missing_ok=True)
        elif path.exists():  # without a line that was torn
            write(path, "".join(json.dumps(m) + "\n" for m in read_lines(path)))
        forget(event.folder, event.epoch, event.settings.train.epochs)

    @hookimpl
    def diffrl_update_done(self, event: EpochDone) -> None:
        """Append the epoch's metrics; an epoch that is told again takes the place of the first."""
        if event.epoch <= self._told:
            kept = [m for m in read_metrics(self._folder) if m["epoch"] < event.epoch]
            write(self._folder / METRICS, "".join(json.dumps(m) + "\n" for m in kept))
        self._told = event.epoch
        # JSON has no NaN.
        known = {name: value for name, value in event.metrics.items() if math.isfinite(value)}
        line = {**known, "epoch": event.epoch, "samples": int(event.metrics["samples"])}
        append_line(self._folder / METRICS, line)

    @hookimpl
    def diffrl_noticed(self, event: Noticed) -> None:
        """Append what was noticed, and forget the epochs that a run goes back on."""
        append_line(self._folder / NOTICES, asdict(event))
        if event.back_to is not None:
            kept = [m for m in read_metrics(self._folder) if m["epoch"] <= event.back_to]
            write(self._folder / METRICS, "".join(json.dumps(m) + "\n" for m in kept))
            forget(self._folder, event.back_to, self._epochs)
            self._told = event.back_to

    @hookimpl
    def diffrl_evaluated(self, event: Evaluated) -> None:
        """Save every picture's scores, the pictures as a grid, and as numbers to compare with."""
        record(self._folder, event, self._rewards)
        images = self._folder / "images"
        picture = grid(event.images, event.steps, event.prompts)
        save_picture(picture, images / f"{event.epoch:05d}.png")
        if event.epoch == 0:
            pixels = (event.images * 255).round().to(torch.uint8)
            partial = images / f".{BEFORE}.partial"
            write_tensors({"steps": torch.tensor(event.steps), "pixels": pixels}, partial)
            sync(partial)
            partial.replace(images / BEFORE)
        elif event.epoch == self._epochs:
            self._compare(event)

    def _compare(self, last: Evaluated) -> None:
        """Put the pictures before and after training side by side."""
        try:
            before = load_file(self._folder / IMAGES / BEFORE)
        except (OSError, SafetensorError):
            return  # lost with a disk; the grids of all epochs are still there
        kept = before["steps"].tolist()
        pairs = [
            (steps, before["pixels"][kept.index(steps)].float() / 255, images)
            for steps, images in zip(last.steps, last.images, strict=True)
            if steps in kept
        ]
        if pairs and pairs[0][1].shape == pairs[0][2].shape:
            steps, old, new = zip(*pairs, strict=True)
            picture = before_after(torch.stack(old), torch.stack(new), steps, last.prompts)
            save_picture(picture, self._folder / IMAGES / LAST)
