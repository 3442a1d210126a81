"""What came of the same question to two contenders, metric by metric."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from diffrl.evidence.files import Answers
from diffrl.evidence.intervals import UNCLEAR, Estimate, between_runs, difference, estimate
from diffrl.measures import PICTURE
from diffrl.scoring import GROUPWISE

MEASURES = frozenset(
    {*PICTURE, "moved", "moved-clip", "diversity", "diversity-clip", "frechet-clip"}
)
"""Of which neither more nor less is better."""


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


def verdicts(one: Sequence[Answers], other: Sequence[Answers]) -> tuple[list[Verdict], list[str]]:
    """Return a verdict for each metric that both have, and which rewards cannot be compared.

    Of single runs, pictures are paired and their prompts resampled: what holds of the two models.
    With several runs on both sides, Welch's interval of the runs' means is taken instead: what
    holds of the two ways of training.
    """
    found: list[Verdict] = []
    every = (*one, *other)
    apart = _apart([a.rewards for a in every])
    both = [metric for metric in one[0].values if all(metric in a.values for a in every)]
    moved = _apart([a.measured for a in every]).intersection(m.split("/")[-2] for m in both)
    alone = frozenset[str]().union(*(a.groupwise for a in every))
    out = apart | moved | alone
    for metric in both:
        if metric.split("/")[-2] not in out and (said := _verdict(metric, one, other)):
            found.append(said)
    told = [f"reward {name!r} is not the same in both; left out" for name in sorted(apart)]
    told += [f"{name}: of another base model or CLIP; left out" for name in sorted(moved)]
    told += [f"reward {name!r} {GROUPWISE}; left out" for name in sorted(alone - apart)]
    names = {name for a in every for name in a.rewards}
    lacking = sorted(name for name in names if any(name not in a.rewards for a in every))
    told += [f"reward {name!r} scored the pictures of one alone; left out" for name in lacking]
    return found, told


def _apart(every: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the names that do not stand for the same in all."""
    return {
        name
        for name in {name for one in every for name in one}
        if len({json.dumps(one[name]) for one in every if name in one}) > 1
    }


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
