"""Means with intervals, and verdicts that do not see more than there is."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy

LEVEL, UNCLEAR = 0.95, "not distinguishable"
RESAMPLES = 2000
NONE = float("nan")
ROUNDING = 1e-9
"""Relative to a value, how far another may be off and yet agree."""

CLUSTERS = 8
"""Fewer prompts than this say little of other prompts: pictures are then resampled instead."""

FEWEST = 6
"""Of fewer prompts or pictures than this, no difference is distinguishable."""


@dataclass(frozen=True)
class Estimate:
    """A mean of pictures, their standard deviation, and the interval of the mean.

    Of one unit, and of units that all agree, there is no interval: its ends are nan. What does not
    scatter does not tell how far other pictures would.
    `count` is the number of pictures, `units` of what was resampled: prompts, pictures or runs.
    """

    mean: float
    std: float
    low: float
    high: float
    count: int
    units: int


def estimate(values: Sequence[float], prompts: Sequence[str]) -> Estimate:
    """Return the mean of pictures with its bootstrap interval.

    Prompts are resampled with all their pictures, since pictures of one prompt are alike; of fewer
    than 8 prompts, the pictures are. Pictures without a value (nan) are left out.

    Args:
        values: one of each picture.
        prompts: of the same pictures.

    Raises:
        ValueError: if no picture has a value.
    """
    kept = [(v, p) for v, p in zip(values, prompts, strict=True) if v == v]
    if not kept:
        raise ValueError("no picture has a value")
    numbers = numpy.array([v for v, _ in kept])
    low, high, units = _interval(numbers, [p for _, p in kept])
    mean = float(numbers.mean())
    return Estimate(mean, float(numbers.std()), low, high, len(numbers), units)


def difference(
    one: Sequence[float], other: Sequence[float], prompts: Sequence[str]
) -> tuple[Estimate, str]:
    """Return how much higher `other` is, picture by picture, and which of the two is higher.

    The second value is `higher`, `lower`, or `not distinguishable` where 0 lies in the interval,
    fewer than 6 prompts or pictures were seen, or all of them differ by the same.
    """
    found = estimate([b - a for a, b in zip(one, other, strict=True)], prompts)
    return found, _said(found) if found.units >= FEWEST else UNCLEAR


def between_runs(
    one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]
) -> tuple[Estimate, str]:
    """Return how much higher the means of `other`'s runs are, by Welch's t over runs.

    Where the runs of each side agree to the last digit, there is no interval, and no difference is
    distinguishable: with so few values that is chance, and tells nothing of how other runs scatter.

    Args:
        one: values of the pictures of each run, at least two runs.
        other: likewise.
    """
    from scipy.stats import ttest_ind

    a, b = (numpy.nanmean(numpy.array(side), axis=1) for side in (one, other))
    mean, count = float(b.mean() - a.mean()), min(len(a), len(b))
    if _agree(a) and _agree(b):
        found = Estimate(mean, 0.0, NONE, NONE, count, count)
    else:
        with warnings.catch_warnings():  # of a side without variance, which is what it has
            warnings.filterwarnings("ignore", "Precision loss")
            interval = ttest_ind(b, a, equal_var=False).confidence_interval(LEVEL)
        std = float(numpy.sqrt(a.var(ddof=1) + b.var(ddof=1)))
        found = Estimate(mean, std, float(interval.low), float(interval.high), count, count)
    return found, _said(found)


def _agree(values: numpy.ndarray) -> bool:
    """Return whether values are one number, but for rounding."""
    return numpy.allclose(values, values[0], rtol=ROUNDING, atol=0)


def _said(change: Estimate) -> str:
    if change.low > 0:
        return "higher"
    return "lower" if change.high < 0 else UNCLEAR


def wins(
    one: Sequence[float], other: Sequence[float], prompts: Sequence[str], higher_is_better: bool
) -> Estimate:
    """Return in how many percent of the pictures `other` is better; a tie counts as half.

    Where one side wins all, the interval is that of Clopper and Pearson: of n wins in n tries.
    """
    sign = 1 if higher_is_better else -1
    share = [
        50.0 * (1 + float(numpy.sign(sign * (b - a)))) if a == a and b == b else float("nan")
        for a, b in zip(one, other, strict=True)
    ]
    found = estimate(share, prompts)
    if found.units < 2 or found.mean not in (0.0, 100.0):
        return found
    least = 100 * ((1 - LEVEL) / 2) ** (1 / found.units)
    low, high = (least, 100.0) if found.mean else (0.0, 100.0 - least)
    return replace(found, low=low, high=high)


def _interval(values: numpy.ndarray, prompts: Sequence[str]) -> tuple[float, float, int]:
    """Return the interval and the number of units that were resampled.

    Percentiles of few units are too narrow; they are moved out to what Student's t would take.
    They cannot leave the values themselves, so of fewer than 6 units Student's interval is taken.
    Source: Hesterberg, What teachers should know about the bootstrap, arXiv:1411.5279, 5.3.
    """
    from scipy.stats import bootstrap, norm, t

    names = list(dict.fromkeys(prompts))
    if len(names) >= CLUSTERS:
        at = numpy.array([names.index(p) for p in prompts])
        sums = numpy.bincount(at, values)
        sample = (sums, numpy.bincount(at).astype(float))
    else:
        sample = (values, numpy.ones(len(values)))
    units = len(sample[0])
    each = sample[0] / sample[1]
    if units < 2 or _agree(each):
        return NONE, NONE, units
    if units < FEWEST:
        mean = float(values.mean())
        half = float(t.ppf((1 + LEVEL) / 2, units - 1) * each.std(ddof=1) / units**0.5)
        return mean - half, mean + half, units
    reach = (units / (units - 1)) ** 0.5 * t.ppf((1 + LEVEL) / 2, units - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = bootstrap(
            sample,
            lambda s, n, axis: s.sum(axis) / n.sum(axis),
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            confidence_level=float(1 - 2 * norm.cdf(-reach)),
            method="percentile",
            rng=numpy.random.default_rng(0),
        )
    return float(found.confidence_interval.low), float(found.confidence_interval.high), units
