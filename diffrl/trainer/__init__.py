"""The core trainer: runs any recipe, and knows none."""

from __future__ import annotations

from pathlib import Path

from diffrl.folder import SETTINGS, create, default_folder, write
from diffrl.registry import registry
from diffrl.settings import Settings
from diffrl.settings.resolve import dump
from diffrl.trainer import checkpoint
from diffrl.trainer.api import resume, train
from diffrl.trainer.epochs import go
from diffrl.trainer.live import LiveView, live_view
from diffrl.trainer.observers import FolderObserver
from diffrl.trainer.ranks import accelerator, agreed
from diffrl.trainer.run import Run
from diffrl.trainer.session import Session, build, preflight
from diffrl.trainer.trackers import TrackerObserver


def run(
    settings: Settings,
    output: Path | None = None,
    resume: Path | None = None,
    live: bool = False,
) -> Run:
    """Run settings to their last epoch.

    Args:
        settings: resolved.
        output: the run's own folder, which must be free.
        resume: a run's folder, to go on from its newest checkpoint instead, or from the beginning
            if it has none yet.
        live: show a table (on a terminal) or lines.
    """
    prompts = preflight(settings, None if resume else output, resume)
    made = accelerator(settings.model.device, settings.model.precision)
    folder = agreed(resume or output or default_folder(settings), made)
    start = checkpoint.newest(folder) if resume else None
    session = build(settings, made, folder, prompts)
    observers = _observers(session, live)
    try:
        if start is None:
            if session.ranks.is_main:
                create(folder, dump(settings))
        else:
            session.go_on(*checkpoint.load(start, session.policy, session.ranks, session.rng))
            if session.ranks.is_main:
                write(folder / SETTINGS, dump(settings))
        session.ranks.accelerator.wait_for_everyone()
        go(session)
        session.ranks.accelerator.wait_for_everyone()
    finally:
        session.ranks.finish()
        for observer in observers:
            registry().unregister(observer)
            if isinstance(observer, LiveView):
                observer.close()
    return Run(folder)


def _observers(session: Session, live: bool) -> list[object]:
    """Register the run's own observers: files always, a live view where asked for."""
    if not session.ranks.is_main:
        return []
    observers: list[object] = [FolderObserver(), TrackerObserver(session.ranks.accelerator)]
    if live:
        observers.append(live_view())
    for observer in observers:
        registry().register(observer)
    return observers


__all__ = ["Run", "resume", "run", "train"]
