"""Markdown tables and values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from diffrl.folder import short_commit


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
    return short_commit(measured["environment"]["commit"])


def listed(docstring: str) -> str:
    """Return a docstring with its attributes or arguments as a list."""
    name = "Args:" if "Args:\n" in docstring else "Attributes:"
    text, found, attributes = docstring.partition(f"{name}\n")
    if not found:
        return docstring
    block, _, after = attributes.partition("\n\n")
    lines = []
    for line in block.splitlines():
        name, colon, what = line.strip().partition(": ")
        begins = colon and line.startswith("    ") and not line.startswith("     ")
        lines.append(f"- `{name}`: {what}" if begins else f"  {line.strip()}")
    return "\n".join([text.rstrip(), "", *lines]) + (f"\n\n{after}" if after else "")
