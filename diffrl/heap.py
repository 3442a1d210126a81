"""Keeps the C library from handing memory back to the system between two tensors."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def reuse_freed_memory() -> bool:
    """Let freed tensors be reused at once; return whether the C library agreed.

    By default glibc maps every allocation above 128 KiB to 32 MiB afresh, and the system clears its
    pages each time, which small networks on a CPU notice.
    Source: mallopt(3). Elsewhere than on glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = {M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 1 << 30, M_TOP_PAD: 64 << 20}
    return all(mallopt(option, value) == 1 for option, value in wanted.items())
