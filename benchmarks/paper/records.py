"""What is kept of every run: small files that go into git, so that any machine can go on.

A record counts as long as the bundled weights and the run's resolved settings are those of today.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.default_run import machine
from benchmarks.paper.cells import Cell, Tier
from diffrl.emoji import ROOT as WORLD
from diffrl.folder import ENVIRONMENT, EVALUATIONS, read_metrics, read_object
from diffrl.settings.resolve import resolve
from diffrl.settings.resolved import Settings
from diffrl.settings.saved import tables

ROOT = Path(__file__).resolve().parents[1] / "results" / "paper_runs"
ASIDE = ("checkpoint", "speed", "watchdog")
"""Sections of settings that do not change what is learned, but for rounding."""

DIGITS = 5
"""Of a score, that are kept."""


@dataclass(frozen=True)
class Evaluation:
    """What every picture scored by metric, after an epoch and so many seconds of training."""

    epoch: int
    seconds: float
    scores: dict[str, list[float]]


@dataclass(frozen=True)
class Record:
    """A finished run.

    Args:
        identity: of the bundled weights and the settings.
        commit: that it ran at.
        machine: in words.
        evaluations: in order.
    """

    identity: str
    commit: str
    machine: str
    evaluations: list[Evaluation] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long it trained."""
        return self.evaluations[-1].seconds


@dataclass(frozen=True)
class Records:
    """The records of a tier, each in a file of its own."""

    tier: Tier
    root: Path = ROOT

    def file(self, cell: Cell, seed: int) -> Path:
        """Return where the record of a run lies."""
        return self.root / self.tier.name / cell.name / f"{seed}.json"

    def get(self, cell: Cell, seed: int) -> Record | None:
        """Return the record of a run, or None where there is none of today's."""
        file = self.file(cell, seed)
        if not file.exists():
            return None
        found = json.loads(file.read_text("utf-8"))
        evaluations = [Evaluation(**one) for one in found.pop("evaluations")]
        record = Record(**found, evaluations=evaluations)
        return record if record.identity == identity(cell, self.tier, seed) else None

    def finished(self, cell: Cell) -> list[Record]:
        """Return the records of a cell's seeds, as far as there are any."""
        every = (self.get(cell, seed) for seed in range(42, 42 + self.tier.seeds))
        return [one for one in every if one]

    def keep(self, cell: Cell, seed: int, folder: Path) -> None:
        """Write the record of a finished run's folder."""
        seconds = {int(line["epoch"]): line["seconds"] for line in read_metrics(folder)}
        paths = sorted((folder / EVALUATIONS).glob("*.json"))
        record = Record(
            identity(cell, self.tier, seed),
            str(read_object(folder / ENVIRONMENT).get("commit")),
            machine(),
            [
                Evaluation(int(one["epoch"]), seconds[int(one["epoch"])], _scores(one, cell))
                for one in (json.loads(path.read_text("utf-8")) for path in paths)
            ],
        )
        file = self.file(cell, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(record)) + "\n", "utf-8")
        partial.replace(file)

    def seeds(self, cells: Sequence[Cell]) -> list[int]:
        """Return the seeds that all cells have finished."""
        every = range(42, 42 + self.tier.seeds)
        return [seed for seed in every if all(self.get(cell, seed) for cell in cells)]


def alike(runs: Sequence[Record]) -> bool:
    """Return whether seconds of runs can be compared: those of one machine, and of one commit."""
    return len({(run.machine, run.commit) for run in runs}) == 1


def before_and_after(runs: Sequence[Record]) -> dict[str, dict[str, list[float]]]:
    """Return the mean scores of each run's first and last evaluation, by metric."""
    return {
        key: {
            when: [_kept(mean(run.evaluations[at].scores[key])) for run in runs]
            for when, at in (("before", 0), ("after", -1))
        }
        for key in (runs[0].evaluations[0].scores if runs else ())
    }


def gained(runs: Sequence[Record], prompts: Sequence[str]) -> dict[str, list[float]]:
    """Return what each prompt's pictures gained in each run, averaged over numbers of steps.

    Evaluations draw the prompts in turn.
    """

    def own(evaluation: Evaluation, i: int) -> float:
        return mean(mean(scores[i :: len(prompts)]) for scores in evaluation.scores.values())

    return {
        prompt: [_kept(own(run.evaluations[-1], i) - own(run.evaluations[0], i)) for run in runs]
        for i, prompt in enumerate(prompts)
    }


def _scores(evaluation: dict[str, Any], cell: Cell) -> dict[str, list[float]]:
    return {
        key: [_kept(value) for value in values]
        for key, values in evaluation["scores"].items()
        if key.startswith(f"eval/{cell.reward}/")
    }


def _kept(score: float) -> float:
    return float(f"{score:.{DIGITS}g}")


NUMERICS = 1
"""Raised by hand where runs of the same settings and weights come out otherwise than before, beyond
rounding: records of before then count no more."""


@cache
def identity(cell: Cell, tier: Tier, seed: int) -> str:
    """Return a digest of the bundled weights and of what else a run's scores depend on."""
    every = tables(_resolved(cell, tier, seed))
    settings = [(path, values) for path, _, values in every if path not in ASIDE]
    code = "" if NUMERICS == 1 else str(NUMERICS)
    return _digest(weights() + json.dumps(settings, default=str) + code)


@cache
def samples(cell: Cell, tier: Tier) -> int:
    """Return how many pictures a run draws in an epoch."""
    return _resolved(cell, tier, 42).train.trajectories


@cache
def epochs(cell: Cell, tier: Tier) -> int:
    """Return how many epochs a run has."""
    return _resolved(cell, tier, 42).train.epochs


def _resolved(cell: Cell, tier: Tier, seed: int) -> Settings:
    sets = [*tier.sets, *cell.sets, f"train.seed={seed}"]
    return resolve(cell.algo, [cell.reward], sets=sets)


@cache
def weights() -> str:
    """Return a digest of the bundled weights."""
    return _digest((WORLD / "weights" / "SHA256SUMS").read_text("utf-8"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
