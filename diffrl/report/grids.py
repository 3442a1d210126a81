"""A run's picture grids, as a page holds them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from diffrl.report.records import Record

WIDEST = 1600
"""Pixels of an embedded grid; wider ones are made smaller."""

MOST = 40
"""Grids of one run on a page; of more, every second, third, …"""


@dataclass(frozen=True)
class Slides:
    """The grids of a run.

    Args:
        name: of the run.
        shown: each grid's epoch in words, and its data address.
        left_out: how many of all grids are shown, in words, where not all are.
        comparison: address of the picture of before and after, or nothing.
        broken: the files that are there and cannot be read.
    """

    name: str
    shown: list[tuple[str, str]]
    left_out: str
    comparison: str
    broken: list[Path]


def slides(record: Record) -> Slides:
    """Return a run's grids for the slider: all, or so many of them."""
    every = record.pictures
    step = -(-len(every) // MOST) or 1
    some = every[::step]
    some = (*some, *(p for p in every[-1:] if p not in some))
    last = [record.before_after] if record.before_after else []
    found = {path: _embedded(path) for path in (*(path for _, path in some), *last)}
    return Slides(
        name=f"seed {record.setting('train.seed')}",
        shown=[(f"epoch {epoch}", found[path]) for epoch, path in some if found[path]],
        left_out=f"One grid in {step} of {len(every)}, and the last." if step > 1 else "",
        comparison=found[last[0]] if last else "",
        broken=[path for path, address in found.items() if not address],
    )


def _embedded(path: Path) -> str:
    """Return a picture as a data address; nothing where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as picture:
            small = picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # torn, or a trap
        return ""
    small.thumbnail((WIDEST, 10 * WIDEST))
    packed = io.BytesIO()
    small.save(packed, "WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(packed.getvalue()).decode()
