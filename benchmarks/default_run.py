"""Measures the default run, `diffrl train --algo sdpo --reward pickscore`, on several seeds.

    python -m benchmarks.default_run [--seeds 42 43 44]

Writes `benchmarks/results/default_run.json`: per seed the wall time and peak memory of the whole
process, and its first and last line of metrics (evaluated on fixed noise); and the first seed's
picture of before and after into `docs/images/`. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from diffrl.emoji import REAL_SCORES
from diffrl.folder import environment
from diffrl.trainer import Run

RESULT = Path(__file__).parent / "results" / "default_run.json"
COMMAND = "train --algo sdpo --reward pickscore"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "before-after.png"


def main() -> None:
    """Run every seed in a process of its own, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--set", action="append", default=[], help="passed on, for trials")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--keep", type=Path, help="folder that the runs' folders stay in")
    options = parser.parse_args()
    real = json.loads(Path(REAL_SCORES).read_text("utf-8"))
    first = options.seeds[0] if options.output == RESULT else None
    runs = [
        measure(seed, options.set, options.keep, PICTURE if seed == first else None)
        for seed in options.seeds
    ]
    result = {
        "command": f"diffrl {COMMAND}",
        "sets": options.set,
        "machine": machine(),
        "environment": {k: v for k, v in environment().items() if k != "command"},
        "steps": [1, 2, 4, 8],
        "real": {name: scores["mean"] for name, scores in real.items()},
        "runs": runs,
    }
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    for run in runs:
        print(run["seed"], f"{run['seconds']:.0f} s", f"{run['peak_memory_gib']:.2f} GiB")
        for steps in result["steps"]:
            print(f"  {steps} steps: {described(run, steps, result['real']['pickscore'])}")


def measure(
    seed: int, sets: list[str], keep: Path | None, picture: Path | None = None
) -> dict[str, Any]:
    """Return time, peak memory and the first and last metrics of one run; keep its picture."""
    folder = keep / f"seed-{seed}" if keep else Path(tempfile.mkdtemp()) / "run"
    arguments = [*COMMAND.split(), "--seed", str(seed), "--output", str(folder)]
    for one in sets:
        arguments += ["--set", one]
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "diffrl", *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"seed {seed} failed with status {status}")
    metrics = Run(folder).metrics
    if picture is not None:
        shutil.copyfile(folder / "images" / picture.name, picture)
    if keep is None:
        shutil.rmtree(folder.parent)
    return {
        "seed": seed,
        "seconds": round(seconds, 1),
        "peak_memory_gib": round(usage.ru_maxrss / 2**20, 3),
        "before": metrics[0],
        "after": metrics[-1],
    }


def described(run: dict[str, Any], steps: int, real: float) -> str:
    """Return what one run did to the score and to the classifier's accuracy."""
    score, right = f"eval/pickscore/{steps}-step", f"eval/animal-accuracy/{steps}-step"
    before, after = run["before"][score], run["after"][score]
    return (
        f"PickScore {before:.2f} → {after:.2f} ({(after - before) / (real - before):.0%} of the "
        f"gap), accuracy {run['before'][right]:.1f} → {run['after'][right]:.1f}"
    )


def machine() -> str:
    """Return the processor in words."""
    cores = os.cpu_count()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{cores} cores of {name}"


if __name__ == "__main__":
    main()
