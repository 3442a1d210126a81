"""The tables of measured speed: start-up, and what each means does to the log-prob gap.

`startup.json` holds by `before` and `now` the starts of two checkouts, `warm` and `cold`: by name
their `median` in seconds and `of_torch`, its ratio to that of a bare `import torch`.
`side_by_side.json` holds seconds of an epoch by how threads wait: `alone`, of some runs, and `two`.
`speed_gap.json` holds `rows`: precision, means, and the gap, log-prob and latent differences.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from typing import Any

from generators.markdown import commit, table
from generators.results import FOLDER

STARTUP, GAP = FOLDER / "startup.json", FOLDER / "speed_gap.json"
BESIDE = FOLDER / "side_by_side.json"
NAMES = {
    "import torch": '`python -c "import torch"`',
    "help": "`diffrl --help`",
    "list-plugins": "`diffrl list-plugins`",
    "first sample": "`diffrl train` to its first sample",
}


def startup() -> str:
    """Return how long commands take to begin, before and now."""
    measured = json.loads(STARTUP.read_text("utf-8"))
    times = [when for when in ("before", "now") if when in measured]
    rows = []
    for how in ("warm", "cold"):
        for name, shown in NAMES.items():
            found = [measured[when][how][name] for when in times]
            cells = (f"{one['median']:.2f} s (× {one['of_torch']:.2f})" for one in found)
            rows.append((shown, how, *cells))
    head = ("start", "files in memory", *times)
    return (
        f"{table(head, rows)}\n\nMedians of starts with files in memory (warm) and without (cold); "
        f"in brackets the ratio to `import torch` of the same minutes, which is what compares. "
        f"{' '.join(_starts(when, measured[when]) for when in times)} "
        f"By `benchmarks/startup.py`."
    )


def beside() -> str:
    """Return how long epochs take alone and beside another run, by how threads wait."""
    measured = json.loads(BESIDE.read_text("utf-8"))
    notes = {measured["own"]: "OpenMP's own", measured["diffrl"]: "diffrl's"}
    rows = []
    for name, found in measured["alone"].items():
        shown = f"`{name}`" + (f", {notes[name]}" if name in notes else "")
        one, two = statistics.median(found), measured["two"][name]
        rows.append((shown, f"{one:.2f} s", f"{two:.2f} s", f"{two / one:.1f} ×"))
    runs = len(measured["alone"][measured["own"]])
    head = ("turns before sleep", "alone", "two runs at a time", "ratio")
    return (
        f"{table(head, rows)}\n\nSeconds of an epoch of `diffrl train --algo sdpo "
        f"--reward pickscore`, mean over both of its lengths, alone the median of {runs} runs, on "
        f"{measured['machine']}, commit {commit(measured)}; "
        f"`passive` is `OMP_WAIT_POLICY`. By `benchmarks/side_by_side.py`."
    )


def _starts(when: str, found: Mapping[str, Any]) -> str:
    warm, cold = (len(found[how]["help"]["seconds"]) for how in ("warm", "cold"))
    packages = found["environment"]["packages"]
    return (
        f"*{when.capitalize()}*: commit {commit(found)}, torch {packages['torch']}, {warm} warm "
        f"and {cold} cold starts on {found['machine']}."
    )


def gap() -> str:
    """Return what each means does to the log-prob gap, by precision."""
    measured = json.loads(GAP.read_text("utf-8"))
    rows = [
        (
            f"`{row['means']}`" if row["means"] != "none" else "none",
            row["precision"],
            *(f"{row[name]:.1e}" if row[name] else "0" for name in ("gap", "log_prob", "latents")),
        )
        for row in measured["rows"]
    ]
    head = ("means", "precision", "gap", "log-prob", "latents, in std")
    return (
        f"{table(head, rows)}\n\nThe largest difference of log-probs between sampling and training "
        f"with unchanged weights (gap); and of log-probs of the same seeds, and of final latents, "
        f"from those of the usual way. The bundled model with adapters that are not zero, 8 "
        f"pictures of 4 steps, trained on half of them at a time, on {measured['machine']}. By "
        f"`benchmarks/speed_gap.py`."
    )
