"""Rows of text, aligned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import typer


def columns(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> Iterator[str]:
    """Yield rows with their cells aligned, the last one as long as it is."""
    table = [list(header), *map(list, rows)] if header else [list(row) for row in rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]) - 1)] if table else []
    for number, row in enumerate(table):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        line = "  ".join([*cells, row[-1]]).rstrip()
        yield typer.style(line, bold=True) if header and number == 0 else line
