"""What differs between runs, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from diffrl.errors import DiffrlError
from diffrl.evidence.evaluation import FILE, FORMAT
from diffrl.evidence.intervals import Estimate, between_runs, difference, estimate
from diffrl.folder import EVALUATIONS, SETTINGS
from diffrl.measures import PICTURE
from diffrl.settings import Settings
from diffrl.settings.saved import tables
from diffrl.trainer.run import Run

MEASURES = frozenset({*PICTURE, "moved", "moved-clip"})
"""Of which neither more nor less is better."""


@dataclass(frozen=True)
class Contender:
    """A run, or runs that differ in their seed only, under one name."""

    name: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Answers:
    """What pictures got, and what was asked: answers to one question pair picture by picture.

    Args:
        asked: the question.
        prompts: of each picture, by metric.
        values: of each run and picture, by metric: `eval/<reward>/<s>-step`,
            `<prompts>/<reward>/<s>-step`.
    """

    asked: Mapping[str, Any]
    prompts: Mapping[str, Sequence[str]]
    values: Mapping[str, Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Verdict:
    """One metric of two runs.

    `change` is the other's mean less the first's, over the pictures that both drew from the same
    noise; `verdict` is `better`, `worse`, `higher`, `lower` or `not distinguishable`.
    """

    metric: str
    one: Estimate
    other: Estimate
    change: Estimate
    verdict: str


def contender(text: str) -> Contender:
    """Return the run in a folder, or the runs in the folders in it.

    Raises:
        DiffrlError: if there are none, or they differ in more than their seed.
    """
    folder = Path(text).expanduser()
    if (folder / SETTINGS).exists():
        return Contender(text, (Run(folder),))
    inside = sorted(p.parent for p in folder.glob(f"*/{SETTINGS}"))
    if not inside:
        raise DiffrlError(f"no run in {text}: expected a folder with {SETTINGS}, or one of such")
    runs = tuple(Run(p) for p in inside)
    others = [key for key, _ in settings_that_differ(runs) if key != "train.seed"]
    if others:
        raise DiffrlError(
            f"{text}: its {len(runs)} runs differ in {', '.join(others[:4])}; name them one by one"
        )
    return Contender(text, runs)


def settings_that_differ(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Return every setting that is not the same in all runs, with its value in each."""
    flat = [_flat(run.settings) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = [(key, [one.get(key, "–") for one in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flat(settings: Settings) -> dict[str, str]:
    found = {"algo": settings.recipe.name, "preset": settings.preset}
    for path, _, values in tables(settings):
        found |= {f"{path}.{name}": str(value) for name, value in values.items()}
    return found


def answers(one: Contender) -> list[Answers]:
    """Return the last evaluation in training, and that of `diffrl eval`, if there is one.

    Raises:
        DiffrlError: if a run was never evaluated, was asked something else, or a file is broken.
    """
    each = [_answers(run) for run in one.runs]
    if len({len(found) for found in each}) > 1:
        each = [found[:1] for found in each]
    together = []
    for same in zip(*each, strict=True):
        if any(a.asked != same[0].asked for a in same):
            raise DiffrlError(f"{one.name}: its runs were evaluated on different pictures")
        names = [n for n in same[0].values if all(n in a.values for a in same)]
        values = {n: [a.values[n][0] for a in same] for n in names}
        together.append(Answers(same[0].asked, same[0].prompts, values))
    return together


def _answers(run: Run) -> list[Answers]:
    records = sorted((run.folder / EVALUATIONS).glob("*.json"))
    found = [_in_training(run, records[-1])] if records else []
    if (run.folder / FILE).is_file():
        found.append(_afterwards(run.folder))
    if not found:
        raise DiffrlError(
            f"{run.folder}: no evaluation there to compare; make one with: diffrl eval {run.folder}"
        )
    return found


def _in_training(run: Run, path: Path) -> Answers:
    content = _read(path)
    asked = run.settings.eval.model_dump(include={"seed", "eta", "images", "prompts"})
    asked |= {"of": content["prompts"], "size": run.settings.model.size}
    asked["sampler"] = run.settings.recipe.sampler.name
    values = {
        name: [[float("nan") if v is None else v for v in found]]
        for name, found in content["scores"].items()
    }
    return Answers(asked, {name: content["prompts"] for name in values}, values)


def _afterwards(folder: Path) -> Answers:
    content = _read(folder / FILE)
    if content.get("format") != FORMAT or not content.get("own"):
        raise DiffrlError(
            f"{folder / FILE}: not written by this version's `diffrl eval RUN`; evaluate again"
        )
    protocol = content["protocol"]
    values: dict[str, list[list[float]]] = {}
    prompts: dict[str, list[str]] = {}
    for cell in content["cells"]:
        if cell["subject"] != content["own"]:
            continue
        for metric, found in cell["values"].items():
            key = f"{cell['prompts']}/{metric}/{cell['steps']}-step"
            values[key] = [found]
            prompts[key] = protocol["prompts"][cell["prompts"]] * protocol["seeds"]
    return Answers({k: v for k, v in protocol.items() if k != "steps"}, prompts, values)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DiffrlError(f"cannot read {path}: {error}; evaluate again") from None


def verdicts(one: Answers, other: Answers, lower_is_better: frozenset[str]) -> list[Verdict]:
    """Return a verdict for each metric that both have.

    Of single runs, pictures are paired and their prompts resampled: what holds of the two models.
    With several runs on both sides, Welch's interval of the runs' means is taken instead: what
    holds of the two ways of training.

    Args:
        one: to compare with.
        other: what may be better.
        lower_is_better: rewards of which less is more.
    """
    found = []
    for name in (n for n in one.values if n in other.values):
        prompts = one.prompts[name]
        a, b = (numpy.nanmean(side.values[name], axis=0).tolist() for side in (one, other))
        if min(len(one.values[name]), len(other.values[name])) > 1:
            change, said = between_runs(one.values[name], other.values[name])
        else:
            change, said = difference(a, b, prompts)
        means = estimate(a, prompts), estimate(b, prompts)
        found.append(Verdict(name, *means, change, _verdict(name, said, lower_is_better)))
    return found


def _verdict(metric: str, said: str, lower_is_better: frozenset[str]) -> str:
    name = metric.split("/")[-2]
    if said == "not distinguishable" or metric.startswith("picture/") or name in MEASURES:
        return said
    return "better" if (said == "higher") != (name in lower_is_better) else "worse"


def lower_is_better(runs: Sequence[Run]) -> frozenset[str]:
    """Return the names of rewards that runs use and of which less is more."""
    rewards = [
        reward
        for settings in (run.settings for run in runs)
        for reward in (*(w.reward for w in settings.rewards), *settings.watched)
    ]
    return frozenset(r.name for r in rewards if not r.higher_is_better)
