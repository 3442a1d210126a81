"""Losses of the core: none. Each belongs to an algorithm, and algorithms are plugins."""

from __future__ import annotations

from diffrl.hookspecs import hookimpl
from diffrl.stages import Loss


@hookimpl
def diffrl_losses() -> list[type[Loss]]:
    """Return the core's losses."""
    return []
