"""A plan in words, the same for `diffrl plan` and for a run that is refused."""

from __future__ import annotations

from collections.abc import Iterator

from diffrl.planning.devices import GIB
from diffrl.planning.plan import Plan


def size(count: int) -> str:
    """Return bytes as people write them."""
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.0f} MiB"


def duration(seconds: float | None) -> str:
    """Return seconds as people write them."""
    if seconds is None:
        return "?"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def verdict(plan: Plan) -> str:
    """Return whether a run fits, in one line."""
    each = f" for each of {plan.processes} processes" if plan.processes > 1 else ""
    needs = f"{size(plan.bytes)}, {plan.device} has {size(plan.memory)}{each}"
    return f"fits: it needs {needs}" if plan.fits else f"does not fit: it needs {needs}"


def refusal(plan: Plan) -> Iterator[str]:
    """Yield what to know about a run that does not fit, one line each."""
    phase, held = plan.largest, sum(part.bytes for part in plan.held)
    calls = f" ({phase.calls} at once)" if phase.calls else ""
    yield f"{phase.name}{calls} needs {size(phase.bytes)} besides {size(held)} held all the time"
    for one in plan.suggestions:
        sets = " ".join(f"--set {text}" for text in one.settings)
        note = f"; {one.note}" if one.note else ""
        yield f"this fits: {sets} ({size(one.bytes)}{note})"
    if not plan.suggestions:
        yield "no smaller batch or precision makes it fit: take a smaller model or more memory"
