"""Figures as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def short(value: float, sign: str = "") -> str:
    """Return a number with two decimals, or as many as show two digits of a small one.

    Args:
        value: the number.
        sign: `+` to show that of positive numbers as well.
    """
    digits = ".2f" if abs(value) >= 0.1 or abs(value) < 1e-6 else ".2g"
    return f"{value:{sign}{digits}}"


def without_nan(value: Any) -> Any:
    """Return a value with None in place of nan, which JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and value != value else value
