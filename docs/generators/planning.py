"""Tables of the planner: GPUs that it knows, and how far off it was."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

from generators.markdown import commit, table

RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "plan_error.json"

CLOCKS = {"wall": "by the clock", "processor": "in processor time; the machine was shared"}


def gpus() -> str:
    """Return the table of GPUs."""
    from diffrl.planning.devices import CORRECTED, GPUS, RESERVED

    rows = [
        (f"`{name}`", *(f"{n:g}" for n in (g.memory, g.half, g.tf32, g.single)), g.source)
        for name, g in GPUS.items()
    ]
    corrected = [f"`{name}`" for name, g in GPUS.items() if g.ecc]
    head = ("`--gpu`", "GiB", "bf16, fp16", "TF32", "fp32", "source")
    return (
        f"{table(head, rows)}\n\nDense TFLOPS. A plan counts on {RESERVED:.0%} of the memory, "
        f"since the driver takes the rest; with {' and '.join(corrected)} on "
        f"{Fraction(CORRECTED)} of that, since error correction takes its part."
    )


def plan_error() -> str:
    """Return planned and measured memory and time, or that they are not measured."""
    if not RESULT.exists():
        return "*Not measured yet.*"
    measured = json.loads(RESULT.read_text("utf-8"))
    rows = [
        (
            name,
            f"{run['planned_gib']:.2f}",
            f"{run['measured_gib']:.2f}",
            f"{run['memory_error']:+.0%}",
            f"{run['planned_seconds']:.2f}",
            f"{run['measured_seconds']:.2f}",
            f"{run['time_error']:+.0%}",
        )
        for name, run in measured["runs"].items()
    ]
    head = ("run", "GiB planned", "measured", "error", "s per epoch planned", "measured", "error")
    off = [abs(run[k]) for run in measured["runs"].values() for k in ("memory_error", "time_error")]
    within = sum(error <= 0.2 for error in off)
    return (
        f"{table(head, rows)}\n\n{within} of {len(off)} figures are within 20 %. Emoji world, "
        f"PickScore, unless named otherwise; peak resident memory of `diffrl train` and the mean "
        f"of its epochs but the first, each in a process of its own, with {measured['threads']} "
        f"thread(s) on {measured['machine']}, {CLOCKS[measured['clock']]}. By "
        f"`benchmarks/plan_error.py`, commit {commit(measured)}."
    )
