"""How much memory this process may use, which in a container is less than the machine has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

OWN = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")


def memory() -> int:
    """Return the bytes of the machine's memory, or of this process's control group if less."""
    import psutil

    return min([int(psutil.virtual_memory().total), *limits()])


def limits(own: Path = OWN, groups: Path = GROUPS) -> Iterator[int]:
    """Yield the limits of this process's control groups and of those around them, in bytes.

    In a container the group's own path may be that of outside, where its folder is the top one.

    Args:
        own: the file in which Linux names them; elsewhere there is none.
        groups: where they are mounted.
    """
    try:
        lines = own.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, kinds, path = [*line.split(":", 2), "", ""][:3]
        if not kinds:
            top, name = groups, "memory.max"
        elif "memory" in kinds.split(","):
            top, name = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        inside = PurePosixPath(path.lstrip("/"))
        for folder in dict.fromkeys([inside, *inside.parents, PurePosixPath()]):
            with contextlib.suppress(OSError, ValueError):  # `max`: none
                yield int((top / folder / name).read_text("utf-8"))
