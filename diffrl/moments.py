"""When this command, or this call, began; for the time until the first sample."""

from __future__ import annotations

import time

BEGAN: float | None = None
"""A moment of `time.perf_counter`, until a run has told of it."""


def begin() -> None:
    """Note that a command begins now."""
    global BEGAN
    BEGAN = time.perf_counter()
