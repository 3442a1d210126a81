"""What a run writes while it goes on: metrics, TensorBoard, image grids."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from diffrl.events import EpochDone, Evaluated, RunDone, RunStarted
from diffrl.hookspecs import hookimpl
from diffrl.trainer.folder import METRICS, read_metrics, write
from diffrl.trainer.pictures import before_after, grid

if TYPE_CHECKING:
    from accelerate import Accelerator


class FolderObserver:
    """Writes into the run's folder. One line of `metrics.jsonl` per epoch, flushed at once."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._folder = Path()
        self._told = -1

    @hookimpl
    def diffrl_run_started(self, event: RunStarted) -> None:
        """Drop what a resumed run will write again, and open the trackers."""
        self._folder = event.folder
        kept = [m for m in read_metrics(event.folder) if event.epoch and m["epoch"] <= event.epoch]
        self._told = int(kept[-1]["epoch"]) if kept else -1
        write(event.folder / METRICS, "".join(json.dumps(m) + "\n" for m in kept))
        options = {"tensorboard": {"purge_step": event.epoch + 1}} if event.epoch else {}
        self._accelerator.init_trackers("tensorboard", init_kwargs=options)

    @hookimpl
    def diffrl_update_done(self, event: EpochDone) -> None:
        """Append the epoch's metrics; an epoch that is told again takes the place of the first."""
        if event.epoch <= self._told:
            kept = [m for m in read_metrics(self._folder) if m["epoch"] < event.epoch]
            write(self._folder / METRICS, "".join(json.dumps(m) + "\n" for m in kept))
        self._told = event.epoch
        line = {**event.metrics, "epoch": event.epoch, "samples": int(event.metrics["samples"])}
        with (self._folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._accelerator.log(dict(event.metrics), step=event.epoch)

    @hookimpl
    def diffrl_evaluated(self, event: Evaluated) -> None:
        """Save the pictures as a grid, and as numbers for the last comparison."""
        images = self._folder / "images"
        grid(event.images, event.steps, event.prompts).save(images / f"{event.epoch:05d}.png")
        if event.epoch == 0:
            pixels = (event.images * 255).round().to(torch.uint8)
            torch.save({"steps": list(event.steps), "pixels": pixels}, images / "before.pt")
        self._last = event

    @hookimpl(tryfirst=True)
    def diffrl_run_done(self, event: RunDone) -> None:
        """Put the pictures before and after training side by side."""
        before = self._folder / "images" / "before.pt"
        last = getattr(self, "_last", None)
        if last is None or last.epoch == 0 or not before.exists():
            return
        kept = torch.load(before, weights_only=True)
        pairs = [
            (steps, kept["pixels"][kept["steps"].index(steps)].float() / 255, images)
            for steps, images in zip(last.steps, last.images, strict=True)
            if steps in kept["steps"]
        ]
        if pairs and pairs[0][1].shape == pairs[0][2].shape:
            steps, old, new = zip(*pairs, strict=True)
            picture = before_after(torch.stack(old), torch.stack(new), steps, last.prompts)
            picture.save(self._folder / "images" / "before-after.png")
