"""Stored preferences: pairs of pictures of which somebody liked one better.

One JSON object a line::

    {"prompt": "a fox", "images": ["a.png", "b.png"], "choice": 0}

`choice` is the place of the preferred picture, 0 or 1, or null where neither is. `latents` with two
`.npy` files of shape `c h w` may stand for `images`. Paths are relative to the file, and stay below
its folder: such files come from other people.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffrl.errors import SettingsError, shown

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""Of pictures. Of others Pillow hands some to programs of the machine."""

SHOWN = 8
"""Problems of a file that are listed; the others are counted."""


@dataclass(frozen=True)
class Pair:
    """Two pictures of a prompt, as files; `choice` is the place of the preferred one, or None."""

    prompt: str
    files: tuple[Path, Path]
    choice: int | None

    @property
    def labels(self) -> tuple[float, float]:
        """1 for the preferred picture and -1 for the other; 0 for both of a tie."""
        if self.choice is None:
            return 0.0, 0.0
        return (1.0, -1.0) if self.choice == 0 else (-1.0, 1.0)


def read(path: str | Path) -> tuple[Pair, ...]:
    """Return the pairs of a file whose pictures all exist.

    Raises:
        SettingsError: naming everything that is wrong in the file.
    """
    if Path(path).suffix != ".jsonl":
        raise SettingsError([f"preferences {path}: expected a file that ends in .jsonl"])
    try:
        file = Path(path).expanduser()
        return _read(file, file.stat().st_mtime_ns)
    except OSError as error:
        raise SettingsError([f"cannot read preferences {path}: {error.strerror}"]) from None
    except (ValueError, RuntimeError) as error:  # no UTF-8, a null byte, no such home
        raise SettingsError([f"cannot read preferences {path}: {error}"]) from None


def control_characters(text: str) -> list[str]:
    """Return what a text holds that no tokenizer or page should see; a tab is as good as a space.

    Control characters of Unicode and halves of surrogate pairs; marks of direction are text.
    """
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c != "\t"]


@lru_cache(maxsize=8)
def _read(file: Path, changed: int) -> tuple[Pair, ...]:
    pairs, problems = [], []
    for number, line in enumerate(file.read_text("utf-8-sig").split("\n"), 1):
        if line.strip():
            try:
                pairs.append(_pair(line, file.parent))
            except ValueError as error:
                problems.append(f"{file}, line {number}: {error}")
    if not pairs and not problems:
        problems.append(f"no preferences in {file}: expected one JSON object a line")
    if len(problems) > SHOWN:
        problems[SHOWN:] = [f"{file}: {len(problems) - SHOWN} more lines are wrong"]
    if problems:
        raise SettingsError(problems)
    return tuple(pairs)


def _pair(line: str, folder: Path) -> Pair:
    """Return what a line says.

    Raises:
        ValueError: saying what is wrong with the line.
    """
    try:
        row: Any = json.loads(line)
    except RecursionError:
        raise ValueError("not JSON that can be read: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, found {type(row).__name__}")
    if extra := sorted(set(row) - {"prompt", "images", "latents", "choice"}):
        raise ValueError(
            f"unknown key {shown(extra[0])}; expected prompt, images or latents, choice"
        )
    prompt, choice = row.get("prompt"), row.get("choice", "")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"prompt is {shown(prompt)}; expected a text")
    if bad := control_characters(prompt.strip()):
        raise ValueError(f"prompt holds the control character {bad[0]!r}; remove it")
    if choice is not None and (isinstance(choice, bool) or choice not in (0, 1)):
        said = "missing" if choice == "" else shown(choice)
        raise ValueError(f"choice is {said}; expected 0, 1, or null for neither")
    return Pair(prompt.strip(), _files(row, folder), choice)


def _files(row: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    kinds = [kind for kind in ("images", "latents") if kind in row]
    if len(kinds) != 1:
        raise ValueError("expected either images or latents")
    names: Any = row[kinds[0]]
    if not isinstance(names, Sequence) or isinstance(names, str) or len(names) != 2:
        raise ValueError(f"{kinds[0]} is {shown(names)}; expected two paths")
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"{kinds[0]} is {shown(names)}; expected two paths")
    for name in names:
        if not stays_inside(folder, name):
            raise ValueError(
                f"{kinds[0]}: {shown(name)} leads out of {folder}; put the files beside this one, "
                f"and name them relative to it"
            )
    first, second = (folder / Path(name) for name in names)
    for file in (first, second):
        if not file.is_file():
            raise ValueError(f"{kinds[0]}: there is no {file}")
        (_check_latent if kinds[0] == "latents" else _check_image)(file)
    return first, second


def stays_inside(folder: Path, name: str | Path) -> bool:
    """Return whether a path, as a file in a folder names it, stays there; links are followed."""
    path = Path(name)
    if path.anchor or ".." in path.parts:
        return False
    return (folder / path).resolve().is_relative_to(folder.resolve())


def _check_latent(file: Path) -> None:
    """Refuse what is no latent, by its head alone."""
    import numpy

    if file.suffix != ".npy":
        raise ValueError(f"latents: expected .npy files, found {file}")
    try:
        latent = numpy.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, OverflowError) as error:
        raise ValueError(f"latents: cannot read {file}: {error}") from None
    if not isinstance(latent, numpy.ndarray):  # a .npz under another name
        raise ValueError(f"latents: {file} holds several arrays; expected one")
    if latent.ndim != 3 or latent.dtype.kind != "f":
        said = f"{latent.dtype} of shape {latent.shape}"
        raise ValueError(f"latents: {file} holds {said}; expected floats of shape (c, h, w)")


def _check_image(file: Path) -> None:
    """Refuse what is no picture, by its head alone."""
    from PIL import Image

    if file.suffix == ".npy":
        raise ValueError(f"images: {file} is an array; put it under latents")
    try:
        Image.open(file, formats=FORMATS).close()
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"images: {error}") from None


__all__ = ["FORMATS", "Pair", "read", "stays_inside"]
