"""What `diffrl ablate` does: the same training for every combination of settings and seeds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha1
from itertools import product
from pathlib import Path

import typer

from diffrl.cli.children import as_interrupts, begin, end
from diffrl.errors import DiffrlError, RunExists, SettingsError
from diffrl.settings import Settings
from diffrl.settings.resolve import resolve

PLAN, SETTINGS = "ablation.json", "settings.toml"


@dataclass(frozen=True)
class Plan:
    """What is varied, and what is common to all runs; `algo` may be varied too."""

    algo: str | None
    rewards: list[str]
    preset: str
    config: str | None
    sets: list[str]
    vary: list[str]
    seeds: int
    epochs: int | None


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    sets: tuple[str, ...]
    algo: str
    seed: int
    folder: Path
    epochs: int

    @property
    def name(self) -> str:
        """What is special about it, without the seed."""
        return " ".join(self.sets) or "as it is"

    @property
    def settings(self) -> list[str]:
        """What it varies but for the algorithm."""
        return split(self.sets)[1]

    def finished(self) -> bool:
        """Whether its last epoch is written."""
        from diffrl.folder import read_metrics

        lines = read_metrics(self.folder)
        return bool(lines) and lines[-1]["epoch"] >= self.epochs


def usual_folder(plan: Plan) -> Path:
    """Return the folder of a plan, the same one for the same plan, so that it is continued."""
    rewards = "+".join(re.sub(r"[^A-Za-z0-9.-]+", "-", r).strip("-") for r in plan.rewards)
    code = sha1(json.dumps(asdict(plan), sort_keys=True).encode()).hexdigest()[:8]
    return Path("ablations") / f"{plan.algo or 'algorithms'}-{rewards or 'data'}-{code}"


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


def grid(plan: Plan, folder: Path) -> Iterator[Cell]:
    """Yield every combination of values with every seed, all of them resolved first."""
    axes = [varied(text) for text in plan.vary]
    if (plan.algo is None) != any(axis[0].startswith("algo=") for axis in axes):
        raise SettingsError(["name algorithms either with --algo or with --vary algo=ONE,OTHER"])
    problems: list[str] = []
    found: list[Cell] = []
    for combination in product(*axes):
        try:
            settings = resolved(plan, combination)
        except SettingsError as error:
            problems += [f"{' '.join(combination)}: {line}" for line in error.problems]
            continue
        for number in range(plan.seeds):
            seed = settings.train.seed + number
            place = folder / "runs" / slug(combination) / f"seed-{seed}"
            algo = settings.recipe.name
            found.append(Cell(combination, algo, seed, place, settings.train.epochs))
    if problems:
        raise SettingsError(problems)
    return iter(found)


def varied(text: str) -> list[str]:
    """Return `key=value` for each value of `key=value,value`; commas in brackets do not split.

    Raises:
        SettingsError: if it is something else.
    """
    key, equals, values = text.partition("=")
    parts = [v.strip() for v in re.split(r",(?![^\[]*\])", values)]
    if not (key.strip() and equals and all(parts)):
        raise SettingsError([f"--vary {text}: expected KEY=VALUE,VALUE, such as gamma=0.99,0.9"])
    return [f"{key.strip()}={value}" for value in parts]


def split(combination: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the algorithm that a combination names, if it names one, and its settings."""
    named = [one.removeprefix("algo=") for one in combination if one.startswith("algo=")]
    return (named[-1] if named else None), [o for o in combination if not o.startswith("algo=")]


def resolved(plan: Plan, combination: Sequence[str]) -> Settings:
    """Return a cell's settings, but for the seed.

    Raises:
        SettingsError: naming everything that is wrong.
    """
    algo, own = split(combination)
    flags = (
        {} if plan.epochs is None else {"train.epochs": (plan.epochs, f"--epochs {plan.epochs}")}
    )
    config = None if plan.config is None else Path(plan.config)
    sets = [*plan.sets, *own]
    return resolve(algo or plan.algo or "", plan.rewards, plan.preset, config, sets, flags)


def slug(combination: Sequence[str]) -> str:
    """Return a folder name."""
    return re.sub(r"[^A-Za-z0-9=.+-]+", "_", ",".join(combination)) or "as-it-is"


def claim(plan: Plan, folder: Path) -> None:
    """Write the plan into the folder, or find the same plan there.

    Raises:
        RunExists: if something else is there.
    """
    path = folder / PLAN
    if path.exists():
        if json.loads(path.read_text("utf-8")) != asdict(plan):
            raise RunExists(f"{folder} holds another ablation; choose another --output")
        return
    if folder.exists() and any(folder.iterdir()):
        raise RunExists(f"{folder} exists and is not empty; choose another --output")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(plan), indent=1) + "\n", "utf-8")


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
                    failed.append(f"  {cell.name} seed {cell.seed}: {last_line(cell)}")
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
