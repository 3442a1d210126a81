"""Plans runs on this machine's CPU, then measures them, and writes how far off the plans are.

    OMP_NUM_THREADS=1 python -m benchmarks.plan_error [--only NAME] [--clock processor]

Writes `benchmarks/results/plan_error.json`. Plan and run have a process of their own each, one
after the other, with the same number of threads. Of a run, memory is the peak of the resident
memory of `diffrl train`; the time of an epoch is the mean of all epochs but the first, which also
loads what the others find loaded. Where other programs run on the machine, `--clock processor`
lets both sides measure their processor time, which on one thread is the time that they would take
alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.default_run import machine
from diffrl.folder import environment
from diffrl.trainer import Run

RESULT = Path(__file__).parent / "results" / "plan_error.json"
FULL = ("--set", "adapter.kind=full")
T8 = ("--set", "sampler.steps=8")
T4 = ("--set", "sampler.steps=4")

SETTINGS: dict[str, tuple[str, ...]] = {
    "SDPO": ("--algo", "sdpo"),
    "SDPO, T=8": ("--algo", "sdpo", *T8),
    "SDPO, micro-batch 4": ("--algo", "sdpo", *T4, "--set", "train.micro_batch=4"),
    "SDPO, micro-batch 32": ("--algo", "sdpo", *T4, "--set", "train.micro_batch=32"),
    "SDPO, all weights": ("--algo", "sdpo", *T4, *FULL),
    "DDPO, T=4": ("--algo", "ddpo", *T4),
    "D3PO, T=4": ("--algo", "d3po", *T4),
    "PRDP, T=4": ("--algo", "prdp", *T4),
    "DDPO, tiny pipeline": ("--algo", "ddpo", *T4, "--set", "train.decode_batch=64"),
}
"""Runs by name: options of `diffrl plan` and `diffrl train`."""

EPOCHS = 5

RUN = "import time; time.perf_counter = time.{clock}; from diffrl.cli import main; main()"
CLOCKS = {"wall": "perf_counter", "processor": "process_time"}


def main() -> None:
    """Measure every setting, and keep those measured before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=list(SETTINGS))
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    known = {k: v for k, v in environment().items() if k != "command"}  # before results change
    before: dict[str, Any] = {}
    if options.output.exists():
        before = json.loads(options.output.read_text("utf-8"))["runs"]
    for name in options.only or SETTINGS:
        before[name] = measure(name, options.clock)
        result = {
            "machine": machine(),
            "threads": threads(),
            "clock": options.clock,
            "environment": known,
            "runs": {n: before[n] for n in SETTINGS if n in before},
        }
        options.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
        print(name, json.dumps(before[name]), flush=True)


def measure(name: str, clock: str) -> dict[str, Any]:
    """Return what a run was planned to need, and what it did need."""
    with tempfile.TemporaryDirectory() as place:
        options = [*SETTINGS[name], "--reward", "pickscore", "--epochs", str(EPOCHS)]
        if "tiny" in name:
            options += tiny(Path(place))
        options += ["--set", "eval.images=8", "--set", "eval.steps=[1]", "--set", "eval.every=0"]
        plan = planned(options, clock)
        peak, metrics = trained(options, clock, Path(place) / "run")
    taken = [phases(line) for line in metrics[2:]]
    lengths = len(plan["lengths"])
    taken = taken[len(taken) % lengths :]  # as many of each length
    measured = {k: sum(one[k] for one in taken) / len(taken) for k in taken[0]}
    own = {p["name"]: p["seconds"] for p in plan["phases"]}
    expected = {"sample": own["sampling"], "score": own["scoring"], "update": own["updating"]}
    seconds, wanted = sum(measured.values()), sum(expected.values())
    return {
        "options": [option.replace(place, "FOLDER") for option in options],
        "planned_gib": round(plan["bytes"] / 2**30, 3),
        "measured_gib": round(peak / 2**30, 3),
        "memory_error": round(plan["bytes"] / peak - 1, 3),
        "planned_seconds": round(wanted, 3),
        "measured_seconds": round(seconds, 3),
        "time_error": round(wanted / seconds - 1, 3),
        "planned_phases": {k: round(v, 3) for k, v in expected.items()},
        "measured_phases": {k: round(v, 3) for k, v in measured.items()},
    }


def phases(line: dict[str, Any]) -> dict[str, float]:
    """Return the seconds of an epoch's phases."""
    return {name: line[f"seconds/{name}"] for name in ("sample", "score", "update")}


def planned(options: list[str], clock: str) -> dict[str, Any]:
    """Return what `diffrl plan` prints, and the lengths that epochs have in turn."""
    command = [*diffrl(clock), "plan", *options, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shortened = any(o.startswith("sampler.steps") for o in options)
    return {**json.loads(done.stdout), "lengths": [4] if shortened else [4, 2]}


def trained(options: list[str], clock: str, folder: Path) -> tuple[int, list[dict[str, Any]]]:
    """Return the peak of a run's resident memory in bytes, and its metrics."""
    command = [*diffrl(clock), "train", *options, "--output", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    return usage.ru_maxrss * 1024, Run(folder).metrics


def diffrl(clock: str) -> list[str]:
    """Return the program, measuring its time with a clock."""
    return [sys.executable, "-c", RUN.format(clock=CLOCKS[clock])]


def tiny(place: Path) -> list[str]:
    """Write the tiny pipeline and CLIP of the tests, and return the options that use them."""
    from diffrl.testing.tiny import save_tiny_clip, save_tiny_pipeline

    model, clip = save_tiny_pipeline(place / "model"), save_tiny_clip(place / "clip")
    return [
        "--model",
        str(model),
        "--reward-checkpoint",
        f"pickscore={clip}",
        "--set",
        "eval.watch=[]",
    ]


def threads() -> int:
    """Return how many threads PyTorch computes with."""
    import torch

    return torch.get_num_threads()


if __name__ == "__main__":
    main()
