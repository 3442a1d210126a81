"""A session's evaluations: drawn by the first process, told to observers."""

from __future__ import annotations

from diffrl.errors import Interrupted
from diffrl.events import Evaluated
from diffrl.registry import registry
from diffrl.trainer.collect import refusing
from diffrl.trainer.evaluate import Evaluation, evaluate
from diffrl.trainer.ranks import Ranks
from diffrl.trainer.session import Session


def is_due(session: Session) -> bool:
    """Return whether an epoch evaluates: the first, the last, and every few."""
    every = session.settings.eval.every
    return not session.epoch or is_last(session) or bool(every and session.epoch % every == 0)


def is_last(session: Session) -> bool:
    """Return whether a run has come to its end."""
    return session.epoch == session.settings.train.epochs


def evaluated(session: Session) -> Evaluation | None:
    """Return an evaluation; only the first process draws, and has one.

    Raises:
        RewardError: in every process, if a reward failed.
        Interrupted: in every process, if one was asked to stop.
    """
    done = None
    with refusing(session.ranks):
        if session.ranks.is_main:
            done = draw_and_score(session)
    return done


def draw_and_score(session: Session) -> Evaluation:
    """Draw pictures, score them, and tell observers."""
    settings = session.settings
    done = evaluate(
        session.policy,
        settings.recipe.sampler,
        session.decode,
        session.watched,
        session.eval_prompts,
        settings.eval,
        session.pieces.sample,
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
    return done


def stop_here(ranks: Ranks) -> None:
    """Stop this process if it was asked to; the others hear of it when they meet.

    Raises:
        Interrupted: naming the signal.
    """
    if number := ranks.asked():
        raise Interrupted(number)
