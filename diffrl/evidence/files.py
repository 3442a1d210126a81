"""What evaluations leave on disk, and reading it with suspicion."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diffrl.builtin.references import opened
from diffrl.errors import DiffrlError
from diffrl.evidence.evaluation import Cell
from diffrl.evidence.judges import Opened
from diffrl.evidence.protocol import Protocol
from diffrl.evidence.subjects import Subject
from diffrl.figures import without_nan
from diffrl.folder import (
    EVALUATION,
    EVALUATIONS,
    environment,
    evaluation_file,
    is_number,
    read_object,
    write,
)
from diffrl.paths import there
from diffrl.trainer.run import Run

FORMAT, LARGEST = 1, 1e38


@dataclass(frozen=True)
class Answers:
    """What a run's pictures got, and what was asked: answers to one question pair up.

    Args:
        kind: `training`, or `eval`.
        epoch: of the weights.
        asked: the question.
        items: the prompt of each value, by metric.
        values: by metric: `eval/<reward>/<s>-step`, `<prompts>/<reward>/<s>-step`.
        rewards: the settings of each reward.
        lower_is_better: rewards of which less is more.
        measured: by what the measures were taken that depend on a model, where that is known.
        groupwise: rewards whose scores are of one model alone.
    """

    kind: str
    epoch: int
    asked: Mapping[str, Any]
    items: Mapping[str, Sequence[str]]
    values: Mapping[str, Sequence[float]]
    rewards: Mapping[str, Any]
    lower_is_better: frozenset[str]
    measured: Mapping[str, Any] = field(default_factory=dict)
    groupwise: frozenset[str] = frozenset()


def save(
    path: Path,
    protocol: Protocol,
    subjects: Sequence[Subject],
    rewards: Sequence[Opened],
    cells: Sequence[Cell],
    measured: Mapping[str, Any],
    own: str | None = None,
) -> None:
    """Write an evaluation as JSON, whole or not at all; `own` names the run whose file it is."""
    content = {
        "format": FORMAT,
        "own": own,
        "environment": {**environment(), "sources": opened()},
        "protocol": protocol.record(),
        "rewards": {r.scorer.name: r.settings for r in rewards},
        "measured": dict(measured),
        "lower_is_better": [r.scorer.name for r in rewards if not r.scorer.higher_is_better],
        "groupwise": [r.scorer.name for r in rewards if r.scorer.groupwise],
        "subjects": {
            s.name: {"source": s.source, "model": s.model, "epoch": s.epoch} for s in subjects
        },
        "cells": [asdict(cell) for cell in cells],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps(without_nan(content), allow_nan=False) + "\n")


def measured_by(base: str | None, clip: str | None) -> dict[str, Any]:
    """Return what measures depend on: the base model that pictures moved from, and the CLIP."""
    if base is not None and (path := there(base)):
        base = str(path.resolve())  # however it was written
    both = [base, clip]
    return {"moved": base, "moved-clip": both, "diversity-clip": clip, "frechet-clip": both}


def recorded(run: Run) -> list[int]:
    """Return the epochs whose evaluations are on record, in order."""
    found = (run.folder / EVALUATIONS).glob("*.json")
    return sorted(int(path.stem) for path in found if path.stem.isdecimal())


def in_training(run: Run, epoch: int) -> Answers:
    """Return an evaluation that training made.

    Raises:
        DiffrlError: if the file is broken.
    """
    path, settings = evaluation_file(run.folder, epoch), run.settings
    content = _read(path)
    try:
        prompts = _prompts(content["prompts"])
        asked = settings.eval.model_dump(include={"seed", "eta"})
        asked |= {"of": prompts, "size": settings.model.size, "guidance": settings.model.guidance}
        asked["sampler"] = settings.drawing.name
        columns = {name: (prompts, found) for name, found in content["scores"].items()}
        for name, own in content.get("by_prompt", {}).items():
            columns[name] = (list(own), list(own.values()))
        values = {name: _column(name, found, of) for name, (of, found) in columns.items()}
        lower = frozenset(content.get("lower_is_better", ()))
        alone = frozenset(content.get("groupwise", ()))
        asked_of = content.get("rewards")
        if asked_of is not None and not isinstance(asked_of, dict):
            raise ValueError("rewards: expected a table of settings")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _broken(path, error) from None
    rewards = {w.reward.name: w.reward for w in settings.rewards}
    rewards |= {r.name: r for r in settings.watched}
    dumped = asked_of or {name: r.identity() for name, r in rewards.items()}
    items = {name: of for name, (of, _) in columns.items()}
    return Answers("training", epoch, asked, items, values, dumped, lower, {}, alone)


def afterwards(folder: Path) -> Answers | None:
    """Return what `diffrl eval` found for a run, if it was asked.

    Raises:
        DiffrlError: if the file is broken, or of another version.
    """
    path = folder / EVALUATION
    if not path.is_file():
        return None
    content = _read(path)
    if content.get("format") != FORMAT or not content.get("own"):
        raise DiffrlError(f"{path}: not written by this version's `diffrl eval RUN`")
    values: dict[str, list[float]] = {}
    items: dict[str, list[str]] = {}
    try:
        protocol = content["protocol"]
        for cell in (c for c in content["cells"] if c["subject"] == content["own"]):
            text = _prompts(protocol["prompts"][cell["prompts"]])
            found = {}
            for name, each in cell["values"].items():
                seeds = range(min(int(protocol["seeds"]), len(each)))
                found[name] = ([one for _ in seeds for one in text], each)
            for name, own in cell["by_prompt"].items():
                found[name] = (list(own), list(own.values()))
            for name, own in cell["found"].items():  # one number of all pictures
                found.setdefault(name, ([cell["prompts"]], [own["mean"]]))
            for name, (prompts, each) in found.items():
                key = f"{cell['prompts']}/{name}/{cell['steps']}-step"
                values[key], items[key] = _column(key, each, prompts), prompts
        asked = {k: v for k, v in protocol.items() if k != "steps"}
        epoch = int(content["subjects"][content["own"]]["epoch"])
        lower = frozenset(content["lower_is_better"])
        if not isinstance(content["rewards"], dict):
            raise ValueError("rewards: expected a table of settings")
        measured = content.get("measured") or {}  # not in files of before
        if not isinstance(measured, dict):
            raise ValueError("measured: expected a table")
        alone = frozenset(content.get("groupwise", ()))
        of = content["rewards"]
        return Answers("eval", epoch, asked, items, values, of, lower, measured, alone)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _broken(path, error) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except ValueError as error:
        raise DiffrlError(f"cannot read {path}: {error}; evaluate again") from None


def _prompts(found: Any) -> list[str]:
    """Return a list of prompts that was read.

    Raises:
        ValueError: if it is none.
    """
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError("prompts: expected a list of texts")
    return found


def _column(name: str, found: Any, prompts: Sequence[str]) -> list[float]:
    """Return one number for each prompt, nan for null.

    Raises:
        ValueError: if there are more or fewer, or other things than numbers of fp32.
    """
    if not isinstance(found, list) or len(found) != len(prompts) or name.count("/") < 2:
        raise ValueError(f"{name}: expected {len(prompts)} numbers, one for each picture")
    if not all(v is None or (is_number(v) and abs(v) < LARGEST) for v in found):
        raise ValueError(f"{name}: expected finite numbers, or null")
    return [float("nan") if v is None else float(v) for v in found]


def _broken(path: Path, error: Exception) -> DiffrlError:
    return DiffrlError(f"cannot read {path}: {type(error).__name__}: {error}; evaluate again")
