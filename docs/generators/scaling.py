"""The tables of docs/processes.md, from `benchmarks/results/scaling.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from generators.markdown import commit, table

RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "scaling.json"

SAVED = 4
"""Numbers for each weight in a checkpoint: itself, `old`, and AdamW's two."""

SPLIT = "weights of calls"
"""What is handed over where weights are split alone. FSDP does it, whose bytes are not counted."""


def scaling() -> str:
    """Return counted bytes beside the formula, and what it says of SD-Turbo."""
    if not RESULT.exists():
        return "*Not measured yet.*"
    found = json.loads(RESULT.read_text("utf-8"))
    where, assumed = f"commit {commit(found)}", found["assumed"]
    counted = [line for kind, run in found["runs"].items() for line in lines(kind, run)]
    rows = [
        (
            one["kind"],
            str(one["gpus"]),
            size(one["link"]),
            size(sum(one["bytes"].values()) - heavy(one["bytes"])),
            f"{one['seconds']:.2f} s",
        )
        for one in found["sd_turbo"]
    ]
    about = (
        f"Counted in two processes on the CPU (Gloo), emoji world, SDPO where nothing else is "
        f"said, {found['epochs']} epochs; "
        f"{where}, by `python -m benchmarks.scaling`. What crossed the loopback interface includes "
        "the first exchange of weights, words, and the protocol's own bytes."
    )
    assuming = (
        f"By the formula, an epoch of SD-Turbo with {assumed['trajectories_per_gpu']} trajectories "
        f"for each GPU and {assumed['updates']} optimizer steps, {assumed['trained_steps']} of "
        f"{assumed['steps']} steps trained: bytes of weights and gradients that cross the link of "
        f"each process, and all else that it hands over; assumed, not measured: "
        f"{assumed['bytes_per_second_inside'] / 1e9:.0f} GB/s inside a machine of "
        f"{assumed['gpus_of_a_machine']}, {assumed['bytes_per_second_between'] / 1e9:.0f} GB/s "
        f"between machines, {assumed['latency_seconds'] * 1e6:.0f} µs for each stage."
    )
    return "\n".join(
        [
            about,
            "",
            table(("trained", "what", "formula", "counted", "off by"), counted),
            "",
            *[crossed(kind, run) for kind, run in found["runs"].items()],
            "",
            assuming,
            "",
            table(
                (
                    "trained",
                    "GPUs",
                    "weights and gradients, over a link",
                    "all else, handed over",
                    "time per epoch",
                ),
                rows,
            ),
        ]
    )


def lines(kind: str, run: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a line for each purpose."""
    return [
        (
            kind,
            purpose,
            size(wanted),
            size(run["counted"][purpose]),
            f"{abs(run['counted'][purpose] / wanted - 1):.1%}",
        )
        for purpose, wanted in run["formula"].items()
        if SPLIT not in run["formula"] or purpose not in (SPLIT, "gradients")
    ]


def heavy(parts: Mapping[str, float]) -> float:
    """Return the bytes of gradients, and of split weights."""
    return parts["gradients"] + parts.get(SPLIT, 0)


def crossed(kind: str, run: Mapping[str, Any]) -> str:
    """Return what was read off the network, beside what the formula has both processes send."""
    expected = 2 * heavy(run["formula"])  # a ring of two sends each byte once, both ways
    first = run["counted"]["weights"]
    if SPLIT in run["formula"]:
        expected += 2 * run["formula"]["gradients"]
        expected += SAVED * 4 * run["trained"] * run["saved"]
        return (
            f"- {kind}: {size(run['loopback'])} crossed the loopback interface; {size(expected)} "
            f"of weights and gradients are expected, for {run['calls']} calls of the network, "
            f"{run['backward']} backward passes, whose gradients Gloo sends twice, and "
            f"{run['saved']} checkpoint, for which weights, `old` and the optimizer's state are "
            "put together."
        )
    return (
        f"- {kind}: {size(run['loopback'])} crossed the loopback interface; {size(expected)} of "
        f"gradients and {size(first)} of first weights are expected."
    )


def size(count: float) -> str:
    """Return a number of bytes in words."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"
