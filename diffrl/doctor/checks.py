"""All checks, one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from diffrl.doctor.finding import Finding, of_all_ranks
from diffrl.doctor.networks import merged_adapters, saved_adapter, weights
from diffrl.doctor.order import reward_order
from diffrl.doctor.pictures import Pictures
from diffrl.doctor.rehearsal import Rehearsal, fitted, rehearse
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
    rehearsal: Rehearsal | None = None
    with kept(session), _noting(mine, "sampling and scoring", debug):
        rehearsal = rehearse(session, given)
    ready = all(session.ranks.everyones([rehearsal is not None]))
    if rehearsal is not None and ready:
        if session.ranks.accelerator.device.type != "cpu":  # which never says that memory has ended
            with kept(session), _noting(mine, "an optimizer step", debug):
                rehearsal = fitted(session, rehearsal)
        for name, check in CHECKS.items():
            with kept(session), _noting(mine, name, debug):
                mine += check(session, rehearsal)
    return tuple(of_all_ranks(session.ranks.everyones([mine])))


@contextlib.contextmanager
def _noting(findings: list[Finding], name: str, debug: bool) -> Iterator[None]:
    """Make a failed finding of an error."""
    try:
        yield
    except Exception as error:
        if debug:
            raise
        findings.append(_broken(name, error))


def _broken(name: str, error: Exception) -> Finding:
    said = " ".join(str(error).split())[:200]
    return Finding(
        name,
        f"{type(error).__name__}: {said}",
        "runs without an error",
        "fail",
        "mend what the error says; --debug shows where it comes from",
    )
