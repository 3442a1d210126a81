"""Runs that tables and figures are made of, each in a folder of its own, one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffrl.folder import SETTINGS, read_metrics


@dataclass(frozen=True)
class Tier:
    """How much is measured.

    Args:
        name: of the tier.
        seeds: training seeds, from 42 on.
        sets: common to all runs.
        rollouts: that predicted rewards are compared on.
    """

    name: str
    seeds: int
    sets: tuple[str, ...]
    rollouts: int


TIERS = {
    "quick": Tier(
        "quick",
        1,
        ("train.epochs=4", "train.trajectories=32", "eval.every=2", "eval.images=24"),
        16,
    ),
    "full": Tier("full", 5, ("train.epochs=40", "eval.every=10", "eval.images=64"), 128),
}


@dataclass(frozen=True)
class Cell:
    """One way of training, for as many seeds as a tier has."""

    name: str
    algo: str
    reward: str = "pickscore"
    sets: tuple[str, ...] = ()

    def folder(self, root: Path, seed: int) -> Path:
        """Return where its run of a seed lies."""
        return root / self.name / str(seed)


def finished(folder: Path) -> bool:
    """Return whether a run has written its report, which comes last."""
    return (folder / "report.html").exists() and bool(read_metrics(folder))


def run_all(
    cells: Sequence[Cell], tier: Tier, root: Path, jobs: int, until: float
) -> tuple[int, list[str]]:
    """Run what is not finished yet, all cells of one seed before the next; stop after a while.

    Args:
        cells: to run.
        tier: seeds and common settings.
        root: folder of all runs.
        jobs: runs at the same time, each on its share of the cores.
        until: moment (`time.monotonic`) after which no run is started.

    Returns:
        How many runs are still to be made, and what went wrong, one line each.
    """
    order = [(cell, 42 + number) for number in range(tier.seeds) for cell in cells]
    waiting = [(c, s) for c, s in order if not finished(c.folder(root, s))]
    running: list[tuple[Path, subprocess.Popen[bytes]]] = []
    failed: list[str] = []
    try:
        while running or (waiting and time.monotonic() < until):
            while waiting and len(running) < jobs and time.monotonic() < until:
                cell, seed = waiting.pop(0)
                folder = cell.folder(root, seed)
                running.append((folder, start(cell, tier, seed, folder, jobs)))
            time.sleep(0.2)
            for one in [r for r in running if r[1].poll() is not None]:
                running.remove(one)
                said = "done" if not one[1].returncode else f"failed, see {log(one[0])}"
                print(f"{len(waiting) + len(running)} to go  {one[0]}: {said}", flush=True)
                failed += [f"{one[0]}: {said}"] if one[1].returncode else []
    finally:
        for _, process in running:
            process.terminate()
    return len(waiting), failed


def start(cell: Cell, tier: Tier, seed: int, folder: Path, jobs: int) -> subprocess.Popen[bytes]:
    """Start a run in a process of its own, or continue it."""
    command = [sys.executable, "-m", "diffrl", "train"]
    if (folder / SETTINGS).exists():
        command += ["--resume", str(folder)]
    else:
        command += ["--algo", cell.algo, "--reward", cell.reward, "--output", str(folder)]
        sets = [*tier.sets, *cell.sets, f"train.seed={seed}", "train.track=[]"]
        command += [word for one in sets for word in ("--set", one)]
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    log(folder).parent.mkdir(parents=True, exist_ok=True)
    with log(folder).open("ab") as file:
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)


def log(folder: Path) -> Path:
    """Return where a run's output goes: beside its folder, which must be free."""
    return folder.with_name(f"{folder.name}.log")
