"""Presets: what is trained, and what algorithms need there, as TOML files beside this module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffrl.errors import UnknownName

HERE = Path(__file__).parent


def names() -> list[str]:
    """Return the names that `--preset` accepts; the default first."""
    found = sorted(path.stem for path in HERE.glob("*.toml"))
    return sorted(found, key=lambda name: name != "emoji")


def read(name: str) -> dict[str, Any]:
    """Return a preset's content.

    Raises:
        UnknownName: with the nearest names.
    """
    from diffrl.settings import toml

    if name not in names():
        raise UnknownName("preset", name, names())
    return toml.read(HERE / f"{name}.toml", f"preset {name}")
