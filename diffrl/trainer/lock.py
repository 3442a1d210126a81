"""One process at a time writes into a run's folder: the others are told so."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from diffrl.errors import ResumeError, quoted
from diffrl.folder import LOCK

_held: dict[Path, FileLock] = {}


def hold(folder: Path) -> None:
    """Keep other processes from going on with a run, until `let_go`.

    Raises:
        ResumeError: if another process holds it.
    """
    if folder.resolve() in _held:
        return
    # the system lets go of it when its process ends, however that ends; the file stays
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ResumeError(
            f"{folder} is being trained by another process, which may have outlived its launcher; "
            f"wait for it or end it (its command line names the folder), then: diffrl train "
            f"--resume {quoted(folder)}"
        ) from None
    except (OSError, NotImplementedError):  # a disk that knows no locks, or takes no file
        return
    _held[folder.resolve()] = lock


def let_go(folder: Path) -> None:
    """Let others go on with a run, if this process has kept them from it."""
    if (lock := _held.pop(folder.resolve(), None)) is not None:
        lock.release()
