"""What differs between runs, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy

from diffrl.errors import DiffrlError
from diffrl.evidence.files import Answers, afterwards, in_training, recorded
from diffrl.evidence.intervals import UNCLEAR, Estimate, between_runs, difference, estimate
from diffrl.folder import SETTINGS
from diffrl.measures import PICTURE
from diffrl.paths import there
from diffrl.settings.saved import flat
from diffrl.trainer.run import Run

MEASURES = frozenset({*PICTURE, "moved", "moved-clip", "diversity", "diversity-clip"})
"""Of which neither more nor less is better."""


@dataclass(frozen=True)
class Contender:
    """A run, or runs that differ in their seed only, under one name."""

    name: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Verdict:
    """One metric of two contenders.

    `change` is the other's mean less the first's; `verdict` is `better`, `worse`, `higher`, `lower`
    or `not distinguishable`.
    """

    metric: str
    one: Estimate
    other: Estimate
    change: Estimate
    verdict: str


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
            f"{' '.join(str(run.folder) for run in runs)}"
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
        kinds.append([in_training(run, epoch) for run in one.runs])
    later = [afterwards(run.folder) for run in one.runs]
    newest = [_newest(run) for run in one.runs]
    for run, answer, last in zip(one.runs, later, newest, strict=True):
        if answer is not None and answer.epoch != last:
            told.append(f"{run.folder}: its evaluation.json is of epoch {answer.epoch}, not {last}")
    if all(later) and not told:
        kinds.append([answer for answer in later if answer is not None])
    whole = [kind for kind in kinds if all(a.asked == kind[0].asked for a in kind)]
    if len(whole) < len(kinds):
        told.append(f"{one.name}: its runs were evaluated on different pictures")
    return whole, told


def _newest(run: Run) -> int:
    """Return the epoch of a run's newest weights, also of those that were deleted."""
    if saved := [int(p.name) for p in run.checkpoints]:
        return max(saved)
    return run.epoch


def pairs(
    one: Sequence[list[Answers]], other: Sequence[list[Answers]]
) -> Iterator[tuple[list[Answers], list[Answers]]]:
    """Yield the answers of two contenders to the same question."""
    for a in one:
        for b in other:
            if a[0].kind == b[0].kind and a[0].asked == b[0].asked:
                yield a, b


def verdicts(one: Sequence[Answers], other: Sequence[Answers]) -> tuple[list[Verdict], list[str]]:
    """Return a verdict for each metric that both have, and which rewards are not the same.

    Of single runs, pictures are paired and their prompts resampled: what holds of the two models.
    With several runs on both sides, Welch's interval of the runs' means is taken instead: what
    holds of the two ways of training.
    """
    found: list[Verdict] = []
    every = (*one, *other)
    apart = {
        name
        for name in one[0].rewards
        if any(name in a.rewards and a.rewards[name] != one[0].rewards[name] for a in every)
    }
    for metric in (m for m in one[0].values if all(m in a.values for a in every)):
        if metric.split("/")[-2] not in apart and (said := _verdict(metric, one, other)):
            found.append(said)
    told = [f"reward {name!r} is not the same in both; left out" for name in sorted(apart)]
    names = {name for a in every for name in a.rewards}
    lacking = sorted(name for name in names if any(name not in a.rewards for a in every))
    told += [f"reward {name!r} scored the pictures of one alone; left out" for name in lacking]
    return found, told


def _verdict(metric: str, one: Sequence[Answers], other: Sequence[Answers]) -> Verdict | None:
    items = one[0].items[metric]
    sides = [numpy.array([a.values[metric] for a in side], float) for side in (one, other)]
    both = numpy.atleast_1d(~numpy.isnan(numpy.concatenate(sides)).any(0))
    if not both.any() or any(list(a.items[metric]) != list(items) for a in (*one, *other)):
        return None
    sides = [side[:, both] for side in sides]
    items = [item for item, kept in zip(items, both.tolist(), strict=True) if kept]
    means = [side.mean(0).tolist() for side in sides]
    if min(map(len, sides)) > 1:
        change, said = between_runs(sides[0].tolist(), sides[1].tolist())
    else:
        change, said = difference(means[0], means[1], items)
    lower = one[0].lower_is_better
    return Verdict(
        metric,
        estimate(means[0], items),
        estimate(means[1], items),
        change,
        in_words(metric, said, lower),
    )


def in_words(metric: str, said: str, lower_is_better: frozenset[str]) -> str:
    """Return whether `higher` or `lower` is better or worse, where either is."""
    name = metric.split("/")[-2]
    if said == UNCLEAR or metric.startswith("picture/") or name in MEASURES:
        return said
    return "better" if (said == "higher") != (name in lower_is_better) else "worse"
