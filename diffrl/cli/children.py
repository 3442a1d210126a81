"""Runs in processes of their own, which save and end when their parent is asked to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable


def begin(command: Sequence[str], log: Path, threads: int | None = None) -> subprocess.Popen[bytes]:
    """Start a command whose output is added to a log.

    It is in a session of its own: a second signal, the terminal's, would not let it save.

    Args:
        command: to start.
        log: file that its output goes to; its folder is made.
        threads: that it computes with; none: as many as it likes.
    """
    own = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **own},
            start_new_session=True,
        )


@runtime_checkable
class Started(Protocol):
    """A process that can be asked to stop."""

    def terminate(self) -> None:
        """Ask it to save and to stop."""
        ...

    def wait(self) -> object:
        """Wait until it has ended."""
        ...


def end(processes: Iterable[Started]) -> None:
    """Ask processes to stop, all at once, and wait until they have saved."""
    left = list(processes)
    for one in left:
        one.terminate()
    for one in left:
        one.wait()


@contextlib.contextmanager
def as_interrupts() -> Iterator[None]:
    """Take signals to stop as Ctrl-C, so that runs in sessions of their own are stopped, too."""
    known = [one for name in ("SIGTERM", "SIGHUP") if (one := getattr(signal, name, None))]
    heard = [one for one in known if signal.getsignal(one) is not signal.SIG_IGN]  # not under nohup
    before = {one: signal.signal(one, signal.default_int_handler) for one in heard}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
