"""The tables of a report, as rows of text."""

from __future__ import annotations

import statistics
from typing import Any

from diffrl.report.charts import is_finite
from diffrl.report.records import Group, Record
from diffrl.report.shapes import Cell


def steps_of(key: str) -> str:
    """Return the number of steps that a metric's key ends with, in words."""
    number = key.rpartition("/")[2].removesuffix("-step")
    return f"{number} step{'s' if number != '1' else ''}"


def score_rows(group: Group) -> list[tuple[str, ...]]:
    """Return rows of reward, steps, before, after and change: means over a group's runs."""
    runs = [[m for m in r.metrics if any(k.startswith("eval/") for k in m)] for r in group.records]
    if any(len(lines) < 2 for lines in runs) or len({lines[-1]["epoch"] for lines in runs}) > 1:
        return []
    rows = []
    for key in (k for k in runs[0][-1] if k.startswith("eval/")):
        if all(is_finite(line.get(key)) for lines in runs for line in (lines[0], lines[-1])):
            before = statistics.mean(lines[0][key] for lines in runs)
            after = [lines[-1][key] for lines in runs]
            spread = f" ± {statistics.stdev(after):.2f}" if len(after) > 1 else ""
            mean = statistics.mean(after)
            shown = (f"{before:.2f}", f"{mean:.2f}{spread}", f"{mean - before:+.2f}")
            rows.append((key.split("/")[1], steps_of(key), *shown))
    return rows


def evaluation_tables(record: Record) -> list[dict[str, Any]]:
    """Return the tables of what `diffrl eval` found for a run: one for each set of prompts."""
    cells = record.evaluation.cells if record.evaluation else []
    tables = []
    for prompts in dict.fromkeys(c.prompts for c in cells):
        here = sorted((c for c in cells if c.prompts == prompts), key=lambda c: c.steps)
        columns = list(dict.fromkeys(name for c in here for name in c.found))
        rows = [[str(c.steps), c.subject, *(_entry(c, name) for name in columns)] for c in here]
        tables.append({"name": prompts, "head": ["steps", "model", *columns], "rows": rows})
    return tables


def _entry(cell: Cell, name: str) -> str:
    found, won = cell.found.get(name), cell.wins.get(name)
    if found is None:
        return "–"
    text = f"{found.mean:.2f}"
    if found.low is not None and found.high is not None:
        text += f" ± {(found.high - found.low) / 2:.2f}"
    return f"{text} ({won.mean:.0f} %)" if won else text
