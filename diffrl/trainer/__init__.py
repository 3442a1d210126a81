"""The core trainer: runs any recipe, and knows none."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from diffrl.events import EpochDone, Evaluated, RolloutDone, RunDone, RunStarted
from diffrl.registry import registry
from diffrl.settings import Settings
from diffrl.settings.resolve import dump
from diffrl.trainer import checkpoint
from diffrl.trainer.api import resume, train
from diffrl.trainer.evaluate import evaluate
from diffrl.trainer.folder import SETTINGS, create, default_folder, write
from diffrl.trainer.live import LiveView, live_view
from diffrl.trainer.loop import Batches, train_epoch
from diffrl.trainer.metrics import summarise
from diffrl.trainer.observers import FolderObserver
from diffrl.trainer.ranks import accelerator, agreed
from diffrl.trainer.run import Run
from diffrl.trainer.session import Session, build, preflight
from diffrl.types import Rewards, Rollout


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
            session.epoch, session.memory, session.progress = checkpoint.load(
                start, session.policy, session.ranks, session.rng
            )
            if session.ranks.is_main:
                write(folder / SETTINGS, dump(settings))
        session.ranks.accelerator.wait_for_everyone()
        _epochs(session)
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
    observers: list[object] = [FolderObserver(session.ranks.accelerator)]
    if live:
        observers.append(live_view())
    for observer in observers:
        registry().register(observer)
    return observers


def _epochs(session: Session) -> None:
    settings, hook = session.settings, registry().hook
    total = settings.train.epochs
    _tell(session, hook.diffrl_run_started, RunStarted(session.folder, settings, session.epoch))
    if session.epoch == 0:
        first = {"epoch": 0.0, "samples": 0.0, "seconds": 0.0, **_evaluate(session)}
        _tell(session, hook.diffrl_update_done, EpochDone(0, total, first))
    while session.epoch < total:
        _one_epoch(session)
    _tell(session, hook.diffrl_run_done, RunDone(session.folder, session.epoch))


def _one_epoch(session: Session) -> None:
    settings, hook, began = session.settings, registry().hook, time.perf_counter()
    number, total, every = session.epoch + 1, settings.train.epochs, settings.eval.every
    lr = settings.optimizer.lr * settings.optimizer.lr_decay ** (number - 1)
    session.ranks.set_learning_rate(lr)
    tally, session.memory = train_epoch(
        settings.recipe,
        session.policy,
        session.judge,
        session.ranks,
        draw_prompts(session),
        session.memory,
        session.rng,
        number,
        Batches(settings.train.sample_batch, settings.train.micro_batch, _observe(session)),
    )
    metrics = {"lr": lr, **summarise(tally, session.ranks, session.rewards)}
    session.epoch = number
    session.progress["samples"] += len(tally.rollout) * session.ranks.count
    if number == total or (every and number % every == 0):
        metrics.update(_evaluate(session))
    session.progress["seconds"] += time.perf_counter() - began
    line = {"epoch": float(number), **session.progress, **metrics}
    _tell(session, hook.diffrl_update_done, EpochDone(number, total, line))
    if number == total or number % settings.checkpoint.every == 0:
        _save(session)


def draw_prompts(session: Session) -> list[str]:
    """Draw the epoch's prompts uniformly and independently, one for each group.

    Source: ZiyiZhang27/sdpo and kvablack/ddpo-pytorch, `random.choice` over the animals.
    """
    group = session.settings.recipe.sampler.group
    count = -(-session.settings.train.trajectories // group)
    drawn = torch.randint(len(session.prompts), (count,), generator=session.rng)
    return [session.prompts[i] for i in drawn.tolist()]


def _evaluate(session: Session) -> dict[str, float]:
    """Return evaluation scores; only the first process draws and tells observers."""
    if not session.ranks.is_main:
        return {}
    settings = session.settings
    done = evaluate(
        session.policy,
        settings.recipe.sampler,
        session.decode,
        session.watched,
        session.eval_prompts,
        settings.eval,
        settings.train.sample_batch,
    )
    event = Evaluated(
        session.epoch, settings.eval.steps, done.prompts, done.images, dict(done.scores)
    )
    registry().hook.diffrl_evaluated(event=event)
    return dict(done.scores)


def _observe(session: Session) -> Any:
    def observe(epoch: int, rollout: Rollout, rewards: Rewards) -> None:
        event = RolloutDone(epoch, rollout, rewards)
        _tell(session, registry().hook.diffrl_rollout_done, event)

    return observe


def _tell(session: Session, hook: Any, event: object) -> None:
    if session.ranks.is_main:
        hook(event=event)


def _save(session: Session) -> None:
    checkpoint.save(
        session.folder,
        session.epoch,
        session.pipeline.unet,
        session.policy,
        session.ranks,
        session.rng,
        session.memory,
        session.progress,
        session.folder / SETTINGS,
    )
    if session.ranks.is_main:
        checkpoint.prune(session.folder, session.settings.checkpoint.keep)


__all__ = ["Run", "resume", "run", "train"]
