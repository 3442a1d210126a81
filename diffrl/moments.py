"""The time from the beginning of a command, or of a call, until its first sample."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

BEGAN: float | None = None
"""A moment of `time.perf_counter`, until a run has told of it."""


def begin() -> None:
    """Note that a command begins now."""
    global BEGAN
    BEGAN = time.perf_counter()


@contextmanager
def loading() -> Iterator[None]:
    """Let no garbage be looked for meanwhile.

    Libraries and weights that load make a million objects that stay. Python would look through all
    of them again and again, which takes a tenth of the time until the first sample. A run that does
    not come so far has no first sample, and leaves its beginning to no other.
    """
    global BEGAN
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    except BaseException:
        BEGAN = None
        raise
    finally:
        if collecting:
            gc.enable()
