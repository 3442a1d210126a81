"""Checksums of weights: a pickled file is read only if somebody vouched for its very bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

from diffrl.errors import CheckpointRefused

MARK = "#sha256="
"""Between a file and the SHA-256 that it must have: `ImageReward.pt#sha256=<64 hex digits>`."""

PUBLISHED = {
    # Git LFS pointer in jewel/laion-aesthetics-predictor, commit 88b7229.
    "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0": (
        "sac+logos+ava1-l14-linearMSE.pth"
    ),
    # Of xswu/HPSv2 at the commit that `hpsv2` fetches, as several projects pin it.
    "c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837": "HPS_v2.1_compressed.pt",
}
"""Files that need no word of the user's, by their SHA-256."""


def split(ref: str) -> tuple[str, str]:
    """Return a reference and the SHA-256 behind it, or nothing.

    Raises:
        CheckpointRefused: if what is behind it is no SHA-256.
    """
    at, mark, digest = ref.partition(MARK)
    digest = digest.lower()
    if mark and not (len(digest) == 64 and set(digest) <= set("0123456789abcdef")):
        raise CheckpointRefused(f"{ref!r}: expected 64 hexadecimal digits behind {MARK}")
    return at, digest


def sha256(file: BinaryIO) -> str:
    """Return the SHA-256 of an open file, read from its beginning, and go back there."""
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(2**20):
        digest.update(piece)
    file.seek(0)
    return digest.hexdigest()


def check(file: BinaryIO, path: Path, wanted: str, vouched: bool, option: str) -> None:
    """Refuse a file whose bytes nobody vouched for.

    Args:
        file: open, so that what is read later is what was checked.
        path: that it was opened by.
        wanted: the SHA-256 that it must have; empty: not said.
        vouched: whether it may be read as it is: it is no pickle, or came from a pinned commit.
        option: what accepts it, but for the SHA-256.

    Raises:
        CheckpointRefused: saying its SHA-256, and the option that accepts it.
    """
    if vouched and not wanted:
        return
    found = sha256(file)
    if wanted and found != wanted:
        raise CheckpointRefused(
            f"{path} is not the file that was pinned: its SHA-256 is {found}, expected {wanted}"
        )
    if not wanted and found not in PUBLISHED:
        raise CheckpointRefused(
            f"{path} is a pickled file that nobody vouched for; "
            f"if it is what its author published, accept it with {option}{MARK}{found}"
        )
