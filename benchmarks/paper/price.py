"""Says what the full tier costs with the code of today, from the first epochs of each of its rows.

    python -m benchmarks.paper.price [--jobs 2] [--only fig-5 …]

The tier's own records are of many commits, and of runs with other work beside them. Here each row's
first seed trains for four epochs and is evaluated, as many at a time as in the tier. The last two
epochs and the evaluation stand for those that are left out; start and end of a process count, too.
Nothing else should run on the machine meanwhile. Writes `benchmarks/results/paper_price.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.default_run import machine
from benchmarks.paper.cells import TIERS, Cell
from benchmarks.paper.experiments import PARTS, cells_of
from benchmarks.paper.records import Records, epochs
from benchmarks.paper.runs import place, run_all
from diffrl.folder import environment, read_metrics, write

RESULT = Path(__file__).resolve().parents[1] / "results" / "paper_price.json"
FULL = TIERS["full"]
FIRST, EVERY = 4, 10
"""Epochs that are trained here, and between evaluations of the tier."""

EXTRA = "looked-into"


def main() -> None:
    """Train the beginnings, and write what whole runs would take."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    short = (f"train.epochs={FIRST}", f"eval.every={FIRST}")
    tier = replace(FULL, name="price", seeds=1, sets=(*FULL.sets, *short))
    cells = cells_of([claim for name in options.only for claim in PARTS[name]()])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        took: dict[Cell, float] = {}
        kept = Records(tier, root / "kept")
        left, failed = run_all(cells, kept, root, options.jobs, math.inf, took.__setitem__)
        if left or failed:
            sys.exit(f"{left} runs are still to be made; {len(failed)} failed")
        lines = {c: read_metrics(place(root, c, tier, 42)) for c in cells}
    rows = {c.name: whole(found, took[c], epochs(c, FULL)) for c, found in lines.items()}
    result = {
        "machine": machine(),
        "environment": {k: v for k, v in environment().items() if k != "command"},
        "jobs": options.jobs,
        "settings": tier.sets,
        "seeds": FULL.seeds,
        "seconds": {name: round(found, 1) for name, found in rows.items()},
        "hours": hours(rows, cells),
    }
    write(RESULT, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["hours"]))


def whole(lines: Sequence[Mapping[str, Any]], took: float, wanted: int) -> float:
    """Return the seconds of a whole run's process, from those of its beginning's.

    That has a start, an evaluation before training and an end, as a whole run has. Epochs of both
    lengths and evaluations are added, as many as are left out.
    """
    at = {int(line["epoch"]): line["seconds"] for line in lines}
    last = sum(v for k, v in lines[-1].items() if k.startswith("seconds/") and k != "seconds/start")
    evaluation = at[FIRST] - at[FIRST - 1] - last
    pair = at[FIRST - 1] - at[FIRST - 2] + last
    return took + pair * (wanted - FIRST) / 2 + evaluation * (wanted // EVERY - 1)


def hours(rows: Mapping[str, float], cells: Sequence[Cell]) -> dict[str, float]:
    """Return the core-hours of all seeds: of what the paper claims, and of what was looked into."""
    claims = cells_of([c for name, part in PARTS.items() if name != EXTRA for c in part()])
    paper = {cell.name for cell in claims}
    sums = {
        "claims of the paper": sum(rows[c.name] for c in cells if c.name in paper),
        "looked into": sum(rows[c.name] for c in cells if c.name not in paper),
    }
    return {name: round(FULL.seeds * found / 3600, 1) for name, found in sums.items()}


if __name__ == "__main__":
    main()
