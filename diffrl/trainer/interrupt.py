"""Ctrl-C and the signal of a scheduler: the run stops where it can go on, a second one at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any, NoReturn

from diffrl.errors import ProcessLost

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TWICE = 1.0
"""Seconds in which the same signal is one: schedulers send it to all, launchers pass it on."""

GRACE = 3.0
"""Seconds to say that another process is lost."""


class Patience:
    """Notes the first signal for the run to see, and leaves at the second.

    Works in the main thread only, where Python delivers signals; elsewhere nothing is noted.
    Where a process is lost, its launcher ends the others, which first have to say what happened:
    so the first SIGTERM after a run that ends for that comes a little later.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._since, self._over = 0.0, False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Patience:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over = isinstance(value, ProcessLost)
        for number, handler in self._before.items():
            if not (self._over and number == signal.SIGTERM):
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._over:
            self._later(number)
            return
        name = signal.Signals(number).name
        if self.asked == number and time.monotonic() - self._since < TWICE:
            return  # the same one, passed on by a launcher, too
        if self.asked:
            leave(128 + number, "error: stopped at once")
        self.asked, self._since = number, time.monotonic()
        said = f"\n{name}: this step ends, then the run is saved; once more to leave at once\n"
        with contextlib.suppress(OSError):
            os.write(2, said.encode())

    def _later(self, number: int) -> None:
        """Let a signal do what it did before the run, once there was time to say what happened."""
        signal.signal(number, self._before[number])
        timer = threading.Timer(GRACE, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()


def leave(code: int, said: str) -> NoReturn:
    """End this process at once, whatever it waits for."""
    try:
        if sys.stdout.isatty():
            os.write(1, b"\x1b[?25h")  # the live view hides the cursor
        os.write(2, f"{said}\n".encode())
    finally:  # also where a terminal or a pipe is gone
        os._exit(code)
