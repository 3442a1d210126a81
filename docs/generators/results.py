"""The table of the default run, from `benchmarks/results/default_run.json`.

The file holds `machine` (in words), `steps` (numbers of denoising steps), `real` (score of real
renders by reward) and `runs`, one per seed: `seed`, `seconds`, `peak_memory_gib`, and the run's
first and last line of metrics as `before` and `after`.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from generators.markdown import table

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "default_run.json"


def results() -> str:
    """Return the table of the default run, or that it is not measured."""
    if not RESULTS.exists():
        return "*Not measured yet.*"
    return results_table(json.loads(RESULTS.read_text("utf-8")))


def results_table(measured: Mapping[str, Any]) -> str:
    """Return before and after by number of steps, over the seeds of `runs`."""
    runs, real = measured["runs"], measured["real"]["pickscore"]
    rows = []
    for steps in measured["steps"]:
        score, accuracy = f"eval/pickscore/{steps}-step", f"eval/animal-accuracy/{steps}-step"
        gained = [share_of_gap(r["before"][score], r["after"][score], real) for r in runs]
        rows.append(
            (
                str(steps),
                *(spread([r[when][score] for r in runs]) for when in ("before", "after")),
                f"{100 * statistics.mean(gained):.0f} % (least {100 * min(gained):.0f} %)",
                *(spread([r[when][accuracy] for r in runs]) for when in ("before", "after")),
            )
        )
    head = (
        "steps",
        "PickScore before",
        "after",
        "of the gap to real",
        "accuracy % before",
        "after",
    )
    minutes = max(r["seconds"] for r in runs) / 60
    memory = max(r["peak_memory_gib"] for r in runs)
    seeds = ", ".join(str(r["seed"]) for r in runs)
    return (
        f"{table(head, rows)}\n\nMean ± standard deviation over seeds {seeds}; real renders score "
        f"{real:.1f}. The slowest run took {minutes:.1f} minutes and {memory:.1f} GiB on "
        f"{measured['machine']}."
    )


def share_of_gap(before: float, after: float, real: float) -> float:
    """Return how much of the way from `before` to real pictures was gone."""
    return (after - before) / (real - before)


def spread(values: list[float]) -> str:
    """Return mean ± sample standard deviation."""
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
