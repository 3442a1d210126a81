"""Figures as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def short(value: float, sign: str = "", beside: float | None = None) -> str:
    """Return a number with two decimals, below one with three, or two digits of a small one.

    Args:
        value: the number.
        sign: `+` to show that of positive numbers as well.
        beside: a number beside which it stands, as a mean is; if that is large, two decimals do.
    """
    size = max(abs(value), abs(beside or 0.0))
    if 1e-6 <= size < 0.1:
        return f"{value:{sign}.2g}"
    return f"{value:{sign}{'.3f' if 0.1 <= size < 1 else '.2f'}}"


def without_nan(value: Any) -> Any:
    """Return a value with None in place of nan, which JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and value != value else value
