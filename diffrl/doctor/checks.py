"""All checks, one after the other."""

from __future__ import annotations

from collections.abc import Callable

from diffrl.doctor.finding import Finding, of_all_ranks
from diffrl.doctor.networks import merged_adapters, saved_adapter, weights
from diffrl.doctor.order import reward_order
from diffrl.doctor.pictures import Pictures
from diffrl.doctor.rehearsal import Rehearsal, rehearse
from diffrl.doctor.training import gradient, log_prob_gap, memory, ranks_in_step
from diffrl.doctor.weights import kept
from diffrl.trainer.session import Session

Check = Callable[[Session, Rehearsal], list[Finding]]

CHECKS: dict[str, Check] = {
    "memory": memory,  # first: what other checks need does not count
    "log-prob gap": log_prob_gap,
    "gradient": gradient,
    "processes in step": ranks_in_step,
    "weights": weights,
    "merged adapters": merged_adapters,
    "saved adapter": saved_adapter,
    "reward order": reward_order,
}


def examine(
    session: Session, given: Pictures | None = None, debug: bool = False
) -> tuple[Finding, ...]:
    """Return what all checks find in all processes; the session stays as it was.

    Args:
        session: built as a run builds it.
        given: pictures to try the rewards on, in place of those that the model draws.
        debug: whether an error inside a check is raised, in place of a failed finding.
    """
    mine: list[Finding] = []
    with kept(session):
        try:
            rehearsal = rehearse(session, given)
        except Exception as error:
            if debug:
                raise
            rehearsal, mine = None, [_broken("sampling and scoring", error)]
    for name, check in CHECKS.items() if rehearsal is not None else ():
        with kept(session):
            try:
                mine += check(session, rehearsal)
            except Exception as error:
                if debug:
                    raise
                mine.append(_broken(name, error))
    return tuple(of_all_ranks(session.ranks.everyones([mine])))


def _broken(name: str, error: Exception) -> Finding:
    said = " ".join(str(error).split())[:200]
    return Finding(
        name,
        f"{type(error).__name__}: {said}",
        "runs without an error",
        "fail",
        "mend what the error says; --debug shows where it comes from",
    )
