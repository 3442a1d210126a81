"""Markdown tables and values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def value(item: Any) -> str:
    """Return a value as one types it in a settings file."""
    from diffrl.settings.toml import write_value

    return "none" if item is None else f"`{write_value(item)}`"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *([c.replace("|", "\\|") for c in r] for r in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
