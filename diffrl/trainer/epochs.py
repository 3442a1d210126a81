"""A session's epochs, one after the other: what is done, told, measured and saved."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from diffrl import shelf
from diffrl.errors import DiffrlError, Diverged, Interrupted, RewardError
from diffrl.events import EpochDone, Evaluated, Noticed, RolloutDone, RunDone, RunStarted
from diffrl.registry import registry
from diffrl.trainer import checkpoint, checks
from diffrl.trainer.collect import refusing
from diffrl.trainer.evaluate import evaluate
from diffrl.trainer.loop import Batches, train_epoch
from diffrl.trainer.metrics import summarise
from diffrl.trainer.moment import Moment
from diffrl.trainer.randomness import random_state, restore_random
from diffrl.trainer.ranks import Ranks
from diffrl.trainer.scorers import overlaps
from diffrl.trainer.session import Session
from diffrl.types import Rewards, Rollout


def go(session: Session) -> None:
    """Evaluate, train to the last epoch, and tell observers of it.

    Raises:
        RewardError: if a reward fails; what there is has been saved, as in the other cases.
        Interrupted: if the process was asked to stop.
        Diverged: if gradients are not finite any more.
    """
    settings, hook = session.settings, registry().hook
    total = settings.train.epochs
    _tell(session, hook.diffrl_run_started, RunStarted(session.folder, settings, session.epoch))
    if session.epoch == 0:
        _close(session, {})
    elif session.pending:
        _close(session, session.pending)
        _save(session)
    while session.epoch < total:
        _one_epoch(session)
    _tell(session, hook.diffrl_run_done, RunDone(session.folder, session.epoch))


def _one_epoch(session: Session) -> None:
    """Train for an epoch; where it cannot end, save the state that it began with, and stop.

    Raises:
        RewardError, Interrupted: saying what happened and how to continue.
        Diverged: after the epoch, if too many updates in a row were skipped.
    """
    before = Moment.of(session)
    began = time.perf_counter()
    try:
        metrics = _train(session, session.epoch + 1)
    except (RewardError, Interrupted) as error:
        before.back(session)
        raise _stopped(session, error) from error
    session.epoch += 1
    session.progress["seconds"] += time.perf_counter() - began
    if session.ranks.bad_steps >= session.settings.optimizer.bad_steps:
        session.pending = dict(metrics)
        raise _stopped(session, _diverged(session))
    _close(session, metrics)
    notice(session, checks.of_training(session))
    if _last(session) or session.epoch % session.settings.checkpoint.every == 0:
        _save(session)


def _diverged(session: Session) -> Diverged:
    return Diverged(
        f"the gradients of {session.ranks.bad_steps} optimizer steps in a row were not finite "
        f"(optimizer.bad_steps); lower optimizer.lr, or compute with --precision fp32 or bf16"
    )


def _close(session: Session, metrics: Mapping[str, float]) -> None:
    """Evaluate where it is due, and tell observers of the epoch.

    Where that cannot end, the epoch is saved as it is, and evaluated first when the run goes on.

    Raises:
        RewardError, Interrupted: saying what happened and how to continue.
    """
    before = random_state(session.rng, session.policy.noise_rng)
    began, scores = time.perf_counter(), {}
    if _evaluates(session):
        try:
            scores = _evaluate(session)
        except (RewardError, Interrupted) as error:
            restore_random(before, session.rng, session.policy.noise_rng)
            session.pending = dict(metrics)
            raise _stopped(session, error) from error
    session.pending = {}
    if session.epoch:
        session.progress["seconds"] += time.perf_counter() - began
    line = {"epoch": float(session.epoch), **session.progress, **metrics, **scores}
    event = EpochDone(session.epoch, session.settings.train.epochs, line)
    _tell(session, registry().hook.diffrl_update_done, event)
    notice(session, checks.of_epoch(session.settings, session.epoch, line))


def _last(session: Session) -> bool:
    return session.epoch == session.settings.train.epochs


def _evaluates(session: Session) -> bool:
    every = session.settings.eval.every
    return not session.epoch or _last(session) or bool(every and session.epoch % every == 0)


def _stopped(session: Session, error: DiffrlError) -> DiffrlError:
    """Save what there is, and return the error that says how to continue."""
    if session.epoch and (session.pending or session.saved != session.epoch):
        _save(session)
        session.ranks.accelerator.wait_for_everyone()  # the first to leave ends the others
    what = f"epoch {session.epoch} is saved" if session.epoch else "no epoch was finished"
    said = f"{error}; {what}; continue with: diffrl train --resume {session.folder}"
    if isinstance(error, Interrupted):
        return Interrupted(error.number, said)
    return type(error)(said)


def _train(session: Session, number: int) -> dict[str, float]:
    """Sample, score and update once, and return the metrics."""
    settings, train = session.settings, session.settings.train
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
        Batches(
            train.sample_batch,
            train.micro_batch,
            _observe(session),
            overlaps(settings, session.ranks.accelerator.device),
            train.bad_scores == "drop",
            session.ranks.check_in if Moment.can_rewind(session) else lambda: None,
        ),
    )
    session.progress["samples"] += (len(tally.rollout) + tally.dropped) * session.ranks.count
    drops = train.bad_scores == "drop"
    return {"lr": lr, **summarise(tally, session.ranks, session.rewards, drops)}


def draw_prompts(session: Session) -> list[str]:
    """Draw the epoch's prompts uniformly and independently, one for each group.

    Source: ZiyiZhang27/sdpo and kvablack/ddpo-pytorch, `random.choice` over the animals.
    """
    group = session.settings.recipe.sampler.group
    count = -(-session.settings.train.trajectories // group)
    drawn = torch.randint(len(session.prompts), (count,), generator=session.rng)
    return [session.prompts[i] for i in drawn.tolist()]


def _evaluate(session: Session) -> dict[str, float]:
    """Return evaluation scores; only the first process draws and tells observers.

    Raises:
        RewardError: in every process, if a reward failed.
        Interrupted: in every process, if one was asked to stop.
    """
    scores: dict[str, float] = {}
    with refusing(session.ranks):
        if session.ranks.is_main:
            scores = _draw_and_score(session)
    return scores


def _draw_and_score(session: Session) -> dict[str, float]:
    settings = session.settings
    done = evaluate(
        session.policy,
        settings.recipe.sampler,
        session.decode,
        session.watched,
        session.eval_prompts,
        settings.eval,
        settings.train.sample_batch,
        settings.train.bad_scores == "drop",
        lambda: stop_here(session.ranks),
    )
    event = Evaluated(
        session.epoch,
        settings.eval.steps,
        done.prompts,
        done.images,
        dict(done.scores),
        done.text,
        dict(done.each),
        done.lower_is_better,
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


def notice(session: Session, found: Sequence[Noticed]) -> None:
    """Tell observers what was noticed; of a check that fails again and again, once."""
    for one in found:
        if one.rule not in session.told:
            _tell(session, registry().hook.diffrl_noticed, one)
        session.told |= {one.rule} if one.action == "warn" else set()


def stop_here(ranks: Ranks) -> None:
    """Stop this process if it was asked to; the others hear of it when they meet.

    Raises:
        Interrupted: naming the signal.
    """
    if number := ranks.asked():
        raise Interrupted(number)


def _save(session: Session) -> None:
    checkpoint.save(
        session.folder,
        session.pipeline.unet,
        session.policy,
        session.ranks,
        session.rng,
        session.position(),
    )
    session.saved = session.epoch
    kept = session.settings.checkpoint
    if session.ranks.is_main:
        shelf.prune(session.folder, kept.keep, kept.best)
