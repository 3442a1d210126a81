"""What `diffrl ablate` does: the same training for every combination of settings and seeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import typer

from diffrl.cli.children import as_interrupts, begin, end
from diffrl.cli.grid import Cell, Plan, grid
from diffrl.errors import DiffrlError, RunExists
from diffrl.folder import check_free, read_object, write

PLAN, SETTINGS = "ablation.json", "settings.toml"


def ablate(plan: Plan, folder: Path, jobs: int) -> None:
    """Run what is not finished yet, then write the table and the plots.

    Raises:
        SettingsError: naming everything that is wrong in any cell, before the first run.
        RunExists: if the folder holds another ablation.
        DiffrlError: if runs failed, naming each; the others are kept.
    """
    cells = list(grid(plan, folder))
    claim(plan, folder)
    open_cells = [cell for cell in cells if not cell.finished()]
    typer.echo(f"{folder}: {len(cells)} runs, {len(cells) - len(open_cells)} finished before")
    failed = run_all(plan, open_cells, jobs)
    from diffrl.cli.ablation_report import write_report

    done = [cell for cell in cells if cell.finished()]
    if done:
        typer.echo(write_report(folder, done))
    if failed:
        advice = "some runs failed; the same command with --output tries them again"
        raise DiffrlError("\n".join([advice, *failed]))


def claim(plan: Plan, folder: Path) -> None:
    """Write the plan into the folder, or find the same plan there.

    Raises:
        RunExists: if something else is there.
    """
    path = folder / PLAN
    if path.exists():
        try:
            found = read_object(path)
        except ValueError as error:
            raise RunExists(f"cannot read {path}: {error}; choose another --output") from None
        if found != asdict(plan):
            raise RunExists(f"{folder} holds another ablation; choose another --output")
        return
    check_free(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps(asdict(plan), indent=1) + "\n")


@as_interrupts()
def run_all(plan: Plan, cells: Sequence[Cell], jobs: int) -> list[str]:
    """Run cells, `jobs` at a time; return one line for each that failed."""
    waiting, failed, total = list(cells), [], len(cells)
    running: list[tuple[Cell, subprocess.Popen[bytes], float]] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                running.append((cell, start(plan, cell, jobs), time.monotonic()))
            time.sleep(0.2)
            for one in [r for r in running if r[1].poll() is not None]:
                running.remove(one)
                cell, process, began = one
                place = f"{total - len(waiting) - len(running)}/{total}"
                said = f"{time.monotonic() - began:.0f} s" if not process.returncode else "failed"
                typer.echo(f"{place}  {cell.name}  seed {cell.seed}: {said}")
                if process.returncode:
                    failed.append(
                        f"  {cell.name} seed {cell.seed}: {last_line(cell)}, {log_path(cell)}"
                    )
    finally:
        end(process for _, process, _ in running)
    return failed


def start(plan: Plan, cell: Cell, jobs: int) -> subprocess.Popen[bytes]:
    """Start a run in a process of its own, or continue it; what it prints goes into a log."""
    command = [sys.executable, "-m", "diffrl", "train"]
    if (cell.folder / SETTINGS).exists():
        command += ["--resume", str(cell.folder), "--epochs", str(cell.epochs)]
    else:
        command += ["--algo", cell.algo, "--preset", plan.preset]
        command += ["--output", str(cell.folder), "--epochs", str(cell.epochs)]
        command += [w for reward in plan.rewards for w in ("--reward", reward)]
        sets = [*plan.sets, *cell.settings, f"train.seed={cell.seed}"]
        command += [w for one in sets for w in ("--set", one)]
        command += ["--config", plan.config] if plan.config else []
    threads = max(1, (os.cpu_count() or 1) // jobs)
    return begin(command, log_path(cell), threads if jobs > 1 else None)


def log_path(cell: Cell) -> Path:
    """Return where a run's output goes: beside its folder, which must be free."""
    return cell.folder.with_name(f"{cell.folder.name}.log")


def last_line(cell: Cell) -> str:
    """Return the last thing a run said."""
    lines = log_path(cell).read_text("utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
