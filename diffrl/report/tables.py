"""The tables of a report, as rows of text."""

from __future__ import annotations

import statistics
from typing import Any

from diffrl.figures import short
from diffrl.report.charts import is_finite
from diffrl.report.groups import Group, evaluated
from diffrl.report.records import Record
from diffrl.report.shapes import Cell


def steps_of(key: str) -> str:
    """Return the number of steps that a metric's key ends with, in words."""
    number = key.rpartition("/")[2].removesuffix("-step")
    return f"{number} step{'s' if number != '1' else ''}"


def score_rows(group: Group) -> list[tuple[str, ...]]:
    """Return rows of reward, steps, before, after and change: means over runs that have begun.

    After is the last epoch at which all of them were evaluated.
    """
    runs = [evaluated(r) for r in group.begun]
    last = max(set(runs[0]).intersection(*runs[1:]), default=0)
    if not last:
        return []
    runs = [[own[min(own)], own[last]] for own in runs]
    rows = []
    for key in (k for k in runs[0][-1] if k.startswith("eval/")):
        if all(is_finite(line.get(key)) for lines in runs for line in (lines[0], lines[-1])):
            before = statistics.mean(lines[0][key] for lines in runs)
            after = [lines[-1][key] for lines in runs]
            mean = statistics.mean(after)
            spread = f" ± {short(statistics.stdev(after), '', mean)}" if len(after) > 1 else ""
            shown = (short(before), short(mean) + spread, short(mean - before, "+", mean))
            rows.append((key.split("/")[1], steps_of(key), *shown))
    return rows


def apart(group: Group) -> list[str]:
    """Return what to know of runs of a group that are not equally far, one line each."""
    late = [f"{r.folder}: left out of curves and means until it is evaluated as the others were"
            for r in group.records if r not in group.begun and r.epochs]  # fmt: skip
    ends = [max(evaluated(r), default=0) for r in group.begun]
    if len(set(ends)) < 2:
        return late
    each = ", ".join(f"{r.name} at {end}" for r, end in zip(group.begun, ends, strict=True))
    far = f"runs that differ in their seed are not equally far ({each}); shown as far as all are"
    return [*late, far]


def evaluation_tables(record: Record) -> list[dict[str, Any]]:
    """Return the tables of what `diffrl eval` found for a run: one for each set of prompts."""
    cells = record.evaluation.cells if record.evaluation else []
    tables, at = [], record.evaluation.epoch if record.evaluation else None
    of = "" if at is None else f", epoch {at}"
    if at is not None and at != record.epochs:
        of += f", while the run is at {record.epochs}"
    for prompts in dict.fromkeys(c.prompts for c in cells):
        here = sorted((c for c in cells if c.prompts == prompts), key=lambda c: c.steps)
        columns = list(dict.fromkeys(name for c in here for name in c.found))
        rows = [[str(c.steps), c.subject, *(_entry(c, name) for name in columns)] for c in here]
        tables.append({"name": prompts + of, "head": ["steps", "model", *columns], "rows": rows})
    return tables


def _entry(cell: Cell, name: str) -> str:
    found, won = cell.found.get(name), cell.wins.get(name)
    if found is None:
        return "–"
    text = short(found.mean)
    if found.low is not None and found.high is not None:
        text += f" ± {short((found.high - found.low) / 2, '', found.mean)}"
    return f"{text} ({won.mean:.0f} %)" if won else text
