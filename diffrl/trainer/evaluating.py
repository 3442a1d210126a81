"""A session's evaluations: drawn by the first process, told to observers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from diffrl.errors import Interrupted
from diffrl.events import Evaluated
from diffrl.scoring import ScoredBy
from diffrl.speed.fitting import in_words
from diffrl.trainer.collect import refusing
from diffrl.trainer.evaluate import Evaluation, evaluate
from diffrl.trainer.ranks import Ranks
from diffrl.trainer.saving import tell
from diffrl.trainer.session import Session


def is_due(session: Session) -> bool:
    """Return whether an epoch evaluates: the first, the last, and every few."""
    every = session.settings.eval.every
    return not session.epoch or is_last(session) or bool(every and session.epoch % every == 0)


def is_last(session: Session) -> bool:
    """Return whether a run has come to its end."""
    return session.epoch == session.settings.train.epochs


def evaluated(session: Session) -> Evaluation | None:
    """Return an evaluation; only the first process has one.

    It draws alone, but where weights are split: then all draw the same, and the others throw it
    away.

    Raises:
        RewardError: in every process, if a reward failed.
        Interrupted: in every process, if one was asked to stop.
    """
    done, ranks = None, session.ranks
    with refusing(ranks), in_words("memory ends in an evaluation"):
        if ranks.is_main:
            done = draw_and_score(session)
        elif ranks.in_step:
            draw(session, ())
    return done


def draw_and_score(session: Session) -> Evaluation:
    """Draw pictures, score them, and tell observers."""
    done = draw(session, session.watched)
    event = Evaluated(
        session.epoch,
        session.settings.eval.steps,
        done.prompts,
        done.images,
        dict(done.scores),
        done.text,
        dict(done.each),
        done.lower_is_better,
        done.by_prompt,
        done.groupwise,
    )
    tell(session, "diffrl_evaluated", event)
    return done


def draw(session: Session, rewards: Sequence[ScoredBy]) -> Evaluation:
    """Draw pictures and score them."""
    settings, ranks = session.settings, session.ranks
    meet = (lambda: refusing(ranks)) if ranks.in_step else (lambda: stopping(ranks))
    return evaluate(
        session.policy,
        settings.recipe.sampler,
        session.decode,
        rewards,
        session.eval_prompts,
        settings.eval,
        session.pieces,
        settings.train.bad_scores == "drop",
        settings.rounds_alike(session.policy.device.type),
        meet,
    )


@contextmanager
def stopping(ranks: Ranks) -> Iterator[None]:
    """Stop this process afterwards if it was asked to; the others hear of it when they meet.

    Raises:
        Interrupted: naming the signal.
    """
    yield
    if number := ranks.asked():
        raise Interrupted(number)
