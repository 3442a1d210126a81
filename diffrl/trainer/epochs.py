"""A session's epochs, one after the other: what is done, told, measured and saved."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from diffrl.errors import DiffrlError, Diverged, OutOfMemory, PluginError
from diffrl.events import EpochDone, RolloutDone, RunDone, RunStarted
from diffrl.folder import IMAGES, read_metrics
from diffrl.origin import failed_at
from diffrl.speed.compiling import seconds_compiling
from diffrl.speed.fitting import in_words
from diffrl.trainer import checks, guard
from diffrl.trainer.collect import Batches
from diffrl.trainer.evaluating import evaluated, is_due, is_last
from diffrl.trainer.loop import train_epoch, turns
from diffrl.trainer.metrics import summarise
from diffrl.trainer.moment import Moment
from diffrl.trainer.observers import LAST
from diffrl.trainer.randomness import random_state, restore_random
from diffrl.trainer.recompute import mode
from diffrl.trainer.saving import everywhere, lost, note_after, notice, save, stopped, tell
from diffrl.trainer.session import Session
from diffrl.trainer.shares import Share, shared
from diffrl.trainer.timings import begin_work, first_seconds, smaller_pieces
from diffrl.trainer.watchdog import GOOD, SLOW, Sighting
from diffrl.types import Rewards, Rollout


def go(session: Session) -> None:
    """Evaluate, train to the last epoch, and tell observers of it.

    Raises:
        RewardError: if a reward fails; what there is has been saved, as in the other cases.
        Interrupted: if the process was asked to stop.
        Diverged: if gradients are not finite any more, or the watchdog stops the run.
    """
    settings, total = session.settings, session.settings.train.epochs
    tell(session, "diffrl_run_started", RunStarted(session.folder, settings, session.epoch))
    begin_work(session)
    notice(session, session.noted)
    if session.epoch == 0:
        _close(session, {})
    elif waiting := session.pending or _unevaluated(session):
        told = not session.pending
        session.pending = waiting
        found = _close(session, session.pending, told)
        if not guard.act(session, found):
            save(session)
    while session.epoch < total:
        _one_epoch(session)
    tell(session, "diffrl_run_done", RunDone(session.folder, session.epoch))


def _unevaluated(session: Session) -> dict[str, float]:
    """Return the metrics of the epoch that a run ends with now, if it had not been its last."""
    if not is_last(session):
        return {}
    lines: list[dict[str, Any]] = []
    if session.ranks.is_main:
        lines = [m for m in read_metrics(session.folder) if m["epoch"] == session.epoch]
        told = any(name.startswith("eval/") for name in (lines[-1] if lines else {}))
        if told and (session.folder / IMAGES / LAST).is_file():
            lines = []
    known = {"epoch", *session.progress}
    (found,) = session.ranks.everyones([lines[-1] if lines else {}])[:1]
    return {name: float(value) for name, value in found.items() if name not in known}


def _one_epoch(session: Session) -> None:
    """Train for an epoch; where it cannot end, save the state that it began with, and stop.

    Raises:
        DiffrlError: saying what happened and how to continue.
        Diverged: after the epoch, if too many updates in a row were skipped, or the watchdog stops.
    """
    try:
        with in_words("memory ends in keeping what an epoch can go back to"):
            before = Moment.of(session)
    except OutOfMemory as error:
        if session.ranks.count > 1:  # the others sample already
            raise session.ranks.lost(error) from error
        raise stopped(session, error) from error
    began = time.perf_counter()
    session.ranks.bad_steps.begin()
    try:
        metrics = _train(session, session.epoch + 1)
    except DiffrlError as error:
        if not everywhere(session, error):
            raise
        raise _undone(session, before, error) from error
    except OSError as error:  # of a plugin's own code: a run writes nothing here
        found = PluginError(f"a component failed at {failed_at(error)}")
        if session.ranks.count > 1:
            raise found from error
        raise _undone(session, before, found) from error
    except Exception as error:  # of a plugin's own code
        if session.ranks.count == 1 and before.is_near(session):
            before.back(session)
            note_after(session, error)
        raise
    session.epoch += 1
    session.progress["seconds"] += time.perf_counter() - began
    if session.ranks.bad_steps.most >= session.settings.optimizer.bad_steps:
        session.pending = dict(metrics)
        raise stopped(session, _diverged(session))
    found = _close(session, metrics)
    notice(session, checks.of_training(session))
    if not guard.act(session, found) and _saves(session):
        save(session)


def _undone(session: Session, before: Moment, error: DiffrlError) -> DiffrlError:
    """Go back to the beginning of an epoch, save that, and return the error that says so."""
    if not before.is_near(session):
        return lost(session, error)
    before.back(session)
    return stopped(session, error)


def _saves(session: Session) -> bool:
    """Return whether an epoch is saved: the last, every few, and those to go back to."""
    due = session.epoch % session.settings.checkpoint.every == 0
    return due or is_last(session) or session.watch.get(GOOD) == session.epoch


def _diverged(session: Session) -> Diverged:
    return Diverged(
        f"the gradients of {session.ranks.bad_steps.most} optimizer steps in a row were not finite "
        f"(optimizer.bad_steps); lower optimizer.lr, or compute with --precision fp32 or bf16"
    )


def _close(session: Session, metrics: Mapping[str, float], told: bool = False) -> list[Sighting]:
    """Evaluate where it is due, tell observers of the epoch, and return what the watchdog saw.

    Of one that was `told` before, the watchdog looks at the evaluation alone. Where that cannot
    end, the epoch is saved as it is, and evaluated first when the run goes on.

    Raises:
        DiffrlError: saying what happened and how to continue.
    """
    before = random_state(session.rng)
    began, done, due = time.perf_counter(), None, is_due(session)
    compiled = seconds_compiling()
    if due:
        try:
            done = evaluated(session)
        except DiffrlError as error:
            if not everywhere(session, error):
                raise
            restore_random(before, session.rng)
            session.pending = dict(metrics)
            raise stopped(session, error) from error
        except OSError:
            raise
        except Exception as error:  # of a plugin's own code
            if session.ranks.count == 1:
                restore_random(before, session.rng)
                session.pending = dict(metrics)
                note_after(session, error)
            raise
    session.pending = {}
    if session.epoch:
        session.progress["seconds"] += time.perf_counter() - began
    found = guard.watch(session, done, due, {} if told else metrics)
    line = {"epoch": float(session.epoch), **session.progress, **metrics}
    line |= {**(done.scores if done else {}), **guard.figures(session, found)}
    line |= first_seconds(session, line, seconds_compiling() - compiled)
    event = EpochDone(session.epoch, session.settings.train.epochs, line)
    tell(session, "diffrl_update_done", event)
    notice(session, checks.of_epoch(session.settings, session.epoch, line))
    notice(session, smaller_pieces(session))
    return found


def _train(session: Session, number: int) -> dict[str, float]:
    """Sample, score and update once, and return the metrics."""
    settings, train = session.settings, session.settings.train
    decayed = settings.optimizer.lr * settings.optimizer.lr_decay ** (number - 1)
    lr = decayed * session.watch.get(SLOW, 1.0)
    session.ranks.set_learning_rate(lr)
    tally, memory = train_epoch(
        settings.recipe,
        session.policy,
        session.judge,
        session.ranks,
        draw(session),
        session.memory,
        session.rng,
        number,
        Batches(
            session.pieces,
            _observe(session),
            settings.overlaps(session.ranks.accelerator.device.type),
            train.bad_scores == "drop",
            session.ranks.check_in if Moment.can_rewind(session) else lambda: None,
            "cpu" if settings.speed.low_memory else None,
            mode(settings),
        ),
    )
    line = summarise(tally, session.ranks, session.rewards, train.bad_scores == "drop")
    session.memory = memory  # last: until here the epoch may still be undone
    session.progress["samples"] += len(tally.everyone.value) + tally.found.dropped
    return {"lr": lr, **line}


def draw(session: Session) -> Share:
    """Draw what the next epoch samples, the same in every process."""
    recipe, ranks = session.settings.recipe, session.ranks
    group = recipe.sampler.group
    count = -(-session.settings.train.trajectories // group)
    rank = ranks.accelerator.process_index
    share = shared(session.prompts, count, group, session.rng, ranks.count, rank)
    if ranks.count == 1:
        return share
    return share.dealt(turns(recipe, share, session.rng, session.epoch + 1))


def _observe(session: Session) -> Any:
    def observe(epoch: int, rollout: Rollout, rewards: Rewards) -> None:
        event = RolloutDone(epoch, rollout, rewards)
        tell(session, "diffrl_rollout_done", event)

    return observe
