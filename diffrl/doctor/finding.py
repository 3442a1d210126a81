"""What a check found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Verdict = Literal["pass", "fail", "skip"]
WORST: tuple[Verdict, ...] = ("fail", "pass", "skip")


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Args:
        check: its name.
        measured: what was found, or why nothing was measured.
        limit: what it should keep to.
        verdict: pass, fail, or skip where the check does not apply.
        advice: what to do if it failed.
    """

    check: str
    measured: str
    limit: str
    verdict: Verdict
    advice: str


def found(check: str, measured: str, limit: str, good: bool, advice: str) -> Finding:
    """Return a finding that passes or fails."""
    return Finding(check, measured, limit, "pass" if good else "fail", advice)


def skipped(check: str, reason: str) -> Finding:
    """Return a finding of a check that does not apply."""
    return Finding(check, reason, "", "skip", "")


def of_all_ranks(each: Sequence[Sequence[Finding]]) -> list[Finding]:
    """Return the worst finding of every check, from those of each process in order of rank.

    A check that failed in one process alone may have left out lines that the others have; all of
    its lines are kept then.
    """
    worst: dict[str, Finding] = {}
    for rank, findings in enumerate(each):
        for one in findings:
            before = worst.get(one.check)
            if before is None or WORST.index(one.verdict) < WORST.index(before.verdict):
                where = f"process {rank}: " if one.verdict == "fail" and len(each) > 1 else ""
                worst[one.check] = replace(one, measured=where + one.measured)
    return list(worst.values())
