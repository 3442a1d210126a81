"""Markdown tables and values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def commit(measured: Mapping[str, Any]) -> str:
    """Return the commit that something was measured at, and whether files had been changed."""
    return short(str(measured["environment"]["commit"]))


def short(name: str) -> str:
    """Return the beginning of a commit's name, and whether files had been changed."""
    return name[:10] + (" with changed files" if name.endswith("-dirty") else "")
