"""What differs between runs, and what came of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffrl.errors import DiffrlError, quoted
from diffrl.evidence.files import Answers, afterwards, in_training, recorded
from diffrl.folder import SETTINGS
from diffrl.paths import there
from diffrl.settings.saved import flat
from diffrl.trainer.run import Run


@dataclass(frozen=True)
class Contender:
    """A run, or runs that differ in their seed only, under one name."""

    name: str
    runs: tuple[Run, ...]


def contender(text: str) -> Contender:
    """Return the run in a folder, or the runs in the folders in it.

    Raises:
        DiffrlError: if there are none, or they differ in anything but their seeds.
    """
    folder = there(text) or Path(text)
    if there(folder / SETTINGS):
        return Contender(text, (Run(folder),))
    inside = sorted(p.parent for p in folder.glob(f"*/{SETTINGS}")) if there(folder) else []
    if not inside:
        raise DiffrlError(f"no run in {text}: expected a folder with {SETTINGS}, or one of such")
    runs = tuple(Run(p) for p in inside)
    others = [key for key, _ in settings_that_differ(runs) if key != "train.seed"]
    if others:
        raise DiffrlError(
            f"{text}: its {len(runs)} runs differ in {', '.join(others[:4])}; name them one by one"
        )
    seeds = [run.settings.train.seed for run in runs]
    if len(set(seeds)) < len(seeds):
        raise DiffrlError(f"{text}: several of its runs have one seed; a copy is no second run")
    return Contender(text, runs)


def settings_that_differ(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Return every setting that is not the same in all runs, with its value in each."""
    each = [flat(run.settings) for run in runs]
    keys = dict.fromkeys(key for one in each for key in one)
    rows = [(key, [one.get(key, "–") for one in each]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def readable(texts: Sequence[str]) -> tuple[list[Contender], list[str]]:
    """Return the contenders that can be read, without young runs beside others, and what is left.

    A run of a folder of several that training has not evaluated yet is left out; where it is alone,
    `diffrl eval` may have judged it.
    """
    found, told = [], []
    for text in texts:
        try:
            one = contender(text)
            each = {run.folder: max(recorded(run), default=0) for run in one.runs}
            epochs = one.runs[0].settings.train.epochs  # of a run whose plugin is gone: refused
        except DiffrlError as error:
            told.append(str(error))
            continue
        young = [folder for folder, last in each.items() if not last]
        if young and len(young) < len(each):
            told += [
                f"{f}: unfinished, evaluated up to epoch 0 of {epochs}; left out" for f in young
            ]
            one = Contender(one.name, tuple(r for r in one.runs if r.folder not in young))
        found.append(one)
    return found, told


def last_common(contenders: Sequence[Contender]) -> tuple[int | None, list[str]]:
    """Return the last epoch at which all runs were evaluated, and what is unfinished about them."""
    runs = [run for one in contenders for run in one.runs]
    each = [recorded(run) for run in runs]
    common = max(set(each[0]).intersection(*each[1:]), default=0)
    told = [
        f"{run.folder}: unfinished, evaluated up to epoch {max(own, default=0)} of {epochs}"
        for run, own in zip(runs, each, strict=True)
        if max(own, default=0) < (epochs := run.settings.train.epochs)
    ]
    if not common and all(each):
        at = "; ".join(f"{r.folder} at {max(own)}" for r, own in zip(runs, each, strict=True))
        told.append(
            f"no epoch of training was evaluated in all ({at}); ask all the same with: diffrl eval "
            f"{' '.join(quoted(run.folder) for run in runs)}"
        )
    return common or None, told


def answers(one: Contender, epoch: int | None) -> tuple[list[list[Answers]], list[str]]:
    """Return, for each kind of evaluation that all of its runs have, the answer of each run.

    Args:
        one: the contender.
        epoch: of the evaluation in training, or None for none.

    Returns:
        The answers, and what was left out and why.
    """
    kinds: list[list[Answers]] = []
    told: list[str] = []
    if epoch is not None:
        with _telling(told):
            kinds.append([in_training(run, epoch) for run in one.runs])
    with _telling(told):
        kinds.append(_afterwards(one))
    kinds = [kind for kind in kinds if kind]
    whole = [kind for kind in kinds if all(a.asked == kind[0].asked for a in kind)]
    if len(whole) < len(kinds):
        told.append(f"{one.name}: its runs were evaluated on different pictures")
    return whole, told


@contextlib.contextmanager
def _telling(told: list[str]) -> Iterator[None]:
    """Add what is wrong with one kind of evaluation; the other may be whole."""
    try:
        yield
    except DiffrlError as error:
        told.append(str(error))


def _afterwards(one: Contender) -> list[Answers]:
    """Return what `diffrl eval` found for each of a contender's runs; nothing, if it was not asked.

    Raises:
        DiffrlError: if only some have that, of their newest weights.
    """
    found = [(run, afterwards(run.folder)) for run in one.runs]
    if not any(answer for _, answer in found):
        return []
    bad = [
        f"{run.folder}: its evaluation.json is of epoch {answer.epoch}, not {_newest(run)}"
        if answer
        else f"{run.folder}: no evaluation.json, as other seeds have"
        for run, answer in found
        if answer is None or answer.epoch != _newest(run)
    ]
    if bad:
        raise DiffrlError("\n".join(bad))
    return [answer for _, answer in found if answer]


def _newest(run: Run) -> int:
    """Return the epoch of a run's newest weights, also of those that were deleted."""
    if saved := [int(p.name) for p in run.checkpoints]:
        return max(saved)
    return run.epoch


def pairs(
    one: Sequence[list[Answers]], other: Sequence[list[Answers]]
) -> Iterator[tuple[list[Answers], list[Answers]]]:
    """Yield the answers of two contenders to the same question.

    Evaluations of several sets of prompts are the same as far as they have sets in common.
    """
    for a in one:
        for b in other:
            if a[0].kind != b[0].kind:
                continue
            if a[0].asked == b[0].asked:
                yield a, b
            elif both := _in_common(a[0].asked, b[0].asked):
                yield [_only(each, both) for each in a], [_only(each, both) for each in b]


def _in_common(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    """Return the sets of prompts that two questions have in common; none if they differ besides."""
    sets, others = one.get("prompts"), other.get("prompts")
    if not (isinstance(sets, dict) and isinstance(others, dict)):
        return set()
    if {**one, "prompts": None} != {**other, "prompts": None}:
        return set()
    return {name for name in sets if sets[name] == others.get(name)}


def _only(answers: Answers, sets: set[str]) -> Answers:
    """Return the answers about some sets of prompts."""
    kept = {k: v for k, v in answers.values.items() if k.rsplit("/", 2)[0] in sets}
    return replace(answers, values=kept)
