"""What a run says of a disk that takes no more, or a folder that cannot be written to."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from diffrl import shelf
from diffrl.errors import CannotWrite, quoted
from diffrl.folder import SETTINGS

UNWRITABLE = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO")
    if hasattr(errno, name)
}
"""What the system says of a disk or folder that takes nothing."""


@contextlib.contextmanager
def telling_of_disks(folder: Path) -> Iterator[None]:
    """Say of a disk that takes no more what is safe, and how to continue.

    Raises:
        CannotWrite: in place of the system's error.
    """
    usual = threading.excepthook
    threading.excepthook = _quiet(usual)
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        reason = os.strerror(error.errno or errno.EIO)
        what = Path(str(error.filename)).name if error.filename else "a file"
        raise CannotWrite(f"cannot write {what} in {folder}: {reason}; {_next(folder)}") from error
    finally:
        threading.excepthook = usual


def _next(folder: Path) -> str:
    """Return what is safe, and what to do when there is room again."""
    if not (folder / SETTINGS).is_file():
        return "nothing was saved; when it can be written, begin the run again"
    newest = shelf.newest(folder)
    kept = f"epoch {newest.name} is saved" if newest else "no epoch was saved"
    again = f"continue with: diffrl train --resume {quoted(folder)}"
    return f"{kept}; when it can be written, {again}"


def _quiet(usual: Callable[[threading.ExceptHookArgs], object]) -> Callable[..., object]:
    """Return a hook that leaves out what the run itself will say: trackers write in threads."""

    def hook(args: threading.ExceptHookArgs) -> object:
        error = args.exc_value
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            return None
        return usual(args)

    return hook
