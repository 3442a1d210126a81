"""An epoch of diffrl, by the very functions that `diffrl train` calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.speed.watch import Watch
from diffrl.events import RunStarted
from diffrl.folder import create, read_metrics
from diffrl.registry import registry
from diffrl.settings import Settings
from diffrl.settings.resolve import dump
from diffrl.trainer import epochs, loop
from diffrl.trainer.collect import Clock
from diffrl.trainer.observers import FolderObserver
from diffrl.trainer.preflight import preflight
from diffrl.trainer.ranks import accelerator
from diffrl.trainer.saving import save, tell
from diffrl.trainer.session import Session, build
from diffrl.trainer.trackers import TrackerObserver


class Ours:
    """A run of diffrl with its files, its observers, and no live view.

    Args:
        settings: of the run.
        folder: of the run.
        watch: that counts and times.
    """

    def __init__(self, settings: Settings, folder: Path, watch: Watch) -> None:
        prompts = preflight(settings, folder)
        made = accelerator(settings.model.device, settings.model.precision)
        self.session = session = build(settings, made, folder, prompts)
        self.prompts: Sequence[str] = prompts[0]
        self._folder = folder
        create(folder, dump(settings), session.sources)
        self._observers = (FolderObserver(), TrackerObserver(made))
        for observer in self._observers:
            registry().register(observer)
        tell(session, "diffrl_run_started", RunStarted(folder, settings, session.epoch))
        attach(session, watch)
        self._recompute = loop.recompute
        loop.recompute = watched_apart(self._recompute, watch)
        if made.device.type == "cuda" and not settings.overlaps("cuda"):
            synchronize_laps()

    def epoch(self, number: int) -> dict[str, float]:
        """Run the next epoch, and return its metrics."""
        assert number == self.session.epoch + 1
        epochs._one_epoch(self.session)
        return read_metrics(self._folder)[-1]

    def close(self) -> None:
        """Leave nothing behind in this process."""
        loop.recompute = self._recompute
        for observer in self._observers:
            registry().unregister(observer)
        self.session.ranks.finish()

    def save(self) -> None:
        """Write a checkpoint."""
        save(self.session)


def attach(session: Session, watch: Watch) -> None:
    """Watch a session's networks."""
    watch.swap(session.policy, "_call", "unet", split=True)
    watch.count(session.policy, "_predict", "asked")  # of which equal ones are predicted once
    watch.swap(session.policy, "_encode", "text")
    watch.swap(session.judge, "_decode", "vae")
    for module in {m for reward in session.rewards for m in networks(reward.score)}:
        watch.network(module, "reward")


def watched_apart(recompute: Callable[..., None], watch: Watch) -> Callable[..., None]:
    """Return the recomputing of log-probs, whose calls of the UNet are no training."""

    def watched(*given: Any) -> None:
        with watch.apart("recomputed"):
            recompute(*given)

    return watched


def networks(score: Any) -> list[nn.Module]:
    """Return the networks that a scorer holds."""
    owner = getattr(score, "__self__", score)
    return [held for held in vars(owner).values() if isinstance(held, nn.Module)]


def synchronize_laps() -> None:
    """Let the trainer's laps wait for the GPU, or its work would be booked on a later one.

    Where scoring goes on beside sampling they must not: it would end that.
    """
    plain = Clock.lap

    def lap(clock: Clock, name: str) -> None:
        torch.cuda.synchronize()
        plain(clock, name)

    Clock.lap = lap
