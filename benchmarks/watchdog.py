"""Drives runs into reward hacking on purpose, with the watchdog and without.

    python -m benchmarks.watchdog [--seeds 3] [--jobs 2] [--folder ablations/watchdog]

SDPO is trained on the aesthetic score for the default run's epochs, at twice its learning rate:
at the preset's the score hardly moves in so many. HPSv2 is only watched. With
`watchdog.action=off` nothing keeps it; with `rollback` the run goes back to its last good
checkpoint, slower, and stops in the end. Writes `benchmarks/results/watchdog.json`. The same
command continues where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.default_run import machine
from diffrl.folder import EVALUATIONS, METRICS, NOTICES, environment, read_lines

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "watchdog.json"
ACTIONS = ("off", "rollback")
HELD_OUT, TRAINED, STEPS = "hpsv2", "aesthetic", (1, 2, 4, 8)
SETS = (
    "optimizer.lr=1.6e-3",
    "eval.every=4",
    'eval.watch=["hpsv2", "animal-accuracy"]',
    "train.track=[]",
)
STOPPED = 3


def main() -> None:
    """Run what is not finished yet, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=ROOT / "ablations" / "watchdog")
    options = parser.parse_args()
    cells = [(a, 42 + n) for n in range(options.seeds) for a in ACTIONS]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda cell: train(*cell, options.folder, options.jobs), cells))
    runs = [told(action, seed, options.folder / action / str(seed)) for action, seed in cells]
    result = {
        "machine": machine(),
        "environment": {k: v for k, v in environment().items() if k != "command"},
        "trained_on": TRAINED,
        "held_out": HELD_OUT,
        "settings": SETS,
        "runs": runs,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    for run in runs:
        print({k: v for k, v in run.items() if k != "notices"})


def train(action: str, seed: int, folder: Path, jobs: int) -> None:
    """Train one run to its end, or to where the watchdog stops it."""
    target = folder / action / str(seed)
    if (target / "ended").exists():
        return
    command = [sys.executable, "-m", "diffrl", "train"]
    if (target / METRICS).exists():
        command += ["--resume", str(target)]
    else:
        sets = [*SETS, f"watchdog.action={action}", f"train.seed={seed}"]
        command += ["--algo", "sdpo", "--reward", TRAINED, "--output", str(target)]
        command += [word for one in sets for word in ("--set", one)]
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": threads}, stdout=subprocess.DEVNULL
    )
    if done.returncode and not (done.returncode == STOPPED and stopped(target)):
        sys.exit(f"{target} failed with {done.returncode}")
    (target / "ended").touch()


def stopped(folder: Path) -> bool:
    """Return whether it was the watchdog that ended a run: others give the same exit code."""
    notices = read_lines(folder / NOTICES)
    last = notices[-1] if notices else {}
    return last.get("source") == "watchdog" and last["action"].startswith("stop")


def told(action: str, seed: int, folder: Path) -> dict[str, Any]:
    """Return where a run began, its best, and where it ended."""
    lines = [m for m in read_lines(folder / METRICS) if f"eval/{HELD_OUT}/1-step" in m]
    held, trained = ([mean(m, name) for m in lines] for name in (HELD_OUT, TRAINED))
    return {
        "action": action,
        "seed": seed,
        "epochs": lines[-1]["epoch"],
        "held_out": {"before": held[0], "best": max(held), "end": held[-1]},
        "trained": {"before": trained[0], "end": trained[-1]},
        "fallen": (max(held) - held[-1]) / spread(folder),
        "notices": read_lines(folder / NOTICES),
    }


def mean(metrics: dict[str, Any], reward: str) -> float:
    """Return a reward's mean over the numbers of steps."""
    return statistics.fmean(metrics[f"eval/{reward}/{n}-step"] for n in STEPS)


def spread(folder: Path) -> float:
    """Return the standard deviation of the held-out reward over pictures before training."""
    content = json.loads((folder / EVALUATIONS / "00000.json").read_text("utf-8"))["scores"]
    return statistics.fmean(statistics.pstdev(content[f"eval/{HELD_OUT}/{n}-step"]) for n in STEPS)


if __name__ == "__main__":
    main()
