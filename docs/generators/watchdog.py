"""The table of runs that were hacked on purpose, from `benchmarks/results/watchdog.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from generators.markdown import commit, table

RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "watchdog.json"
HEAD = (
    "watchdog.action", "seed", "trained on: before → end", "held out: before", "best", "end",
    "fallen from the best", "last epoch",
)  # fmt: skip


def watchdog() -> str:
    """Return the table, and what the watchdog said."""
    if not RESULT.exists():
        return "*Not measured yet.*"
    measured = json.loads(RESULT.read_text("utf-8"))
    rows = table(HEAD, [row(run) for run in measured["runs"]])
    where = f"{measured['machine']}, commit {commit(measured)}"
    settings = " ".join(f"`{one}`" for one in measured["settings"])
    about = (
        f"Means over 1, 2, 4 and 8 steps; *fallen* is in standard deviations of "
        f"{measured['held_out']} over pictures before training. {where}; {settings}. "
        "What the watchdog said:"
    )
    return "\n".join([rows, "", about, "", *told(measured["runs"])])


def row(run: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a run's line."""
    held, trained = run["held_out"], run["trained"]
    return (
        run["action"],
        str(run["seed"]),
        f"{trained['before']:.2f} → {trained['end']:.2f}",
        f"{held['before']:.2f}",
        f"{held['best']:.2f}",
        f"{held['end']:.2f}",
        f"{run['fallen']:.2f}",
        str(run["epochs"]),
    )


def told(runs: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what was noticed, a line each."""
    for run in runs:
        for one in run["notices"]:
            yield f"- seed {run['seed']}, epoch {one['epoch']}: {one['message']} → {one['action']}"
