"""Claims beside what was measured. The test is named in every verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy
from scipy.stats import ttest_1samp

from benchmarks.paper.cells import Cell
from benchmarks.paper.experiments import Claim
from benchmarks.paper.records import Evaluation, Record, Records, alike
from diffrl.evidence.intervals import LEVEL, Estimate, between_runs, difference

REPRODUCED, UNCLEAR, CONTRADICTED = "reproduced", "not distinguishable", "contradicted"
APART = "on different machines or code"
FOR, AGAINST = "few seeds, for", "few seeds, against"
FEWEST = 3
"""Of fewer seeds there is no verdict: two runs that happen to agree make an interval narrow, and
one compares two models and not two ways of training."""

WELCH = "Welch's t over seeds"
BY_SEED = "paired t over seeds"
PAIRED = "paired bootstrap over pictures of one seed"


@dataclass(frozen=True)
class Verdict:
    """A claim with the difference that was found; `seeds` of 0: nothing was run.

    `by_seed` is the same difference by `BY_SEED`, where there are several seeds, and `said_by_seed`
    what that says: runs of one seed begin with the same adapter and, as far as they ask for the
    same, the same prompts and noise.
    """

    place: str
    text: str
    reward: str
    steps: tuple[int, ...]
    measure: str
    said: str
    change: Estimate | None
    test: str
    seeds: int
    by_seed: Estimate | None = None
    said_by_seed: str = ""

    def record(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def judge(claim: Claim, records: Records) -> Verdict:
    """Return the verdict on a claim, from the seeds that both of its cells have finished."""
    asked = (claim.place, claim.text, claim.better.reward, claim.steps, claim.measure)
    cells = [claim.better] + ([claim.worse] if claim.worse else [])
    finished = records.seeds(cells)
    seeds = [s for s in finished if fair(claim, [_found(records, c, s) for c in cells])]
    if not seeds:
        said = APART if finished else "not run"
        return Verdict(*asked, said, None, "", 0)
    pairs = [sides(claim, records, seed) for seed in seeds]
    worse, better = ([side[i] for side in pairs] for i in (0, 1))
    by_seed = None
    if len(seeds) > 1:
        change, said = between_runs(worse, better)
        test, by_seed = WELCH, within_seeds(worse, better)
    else:
        # With four prompts or forty, pictures are the units: other prompts are not asked about.
        change, said = difference(worse[0], better[0], [str(i) for i in range(len(better[0]))])
        test = PAIRED
    enough = len(seeds) >= FEWEST
    names = {
        "higher": REPRODUCED if enough else FOR,
        "lower": CONTRADICTED if enough else AGAINST,
    }
    told = names.get(direction(by_seed), UNCLEAR) if by_seed else ""
    return Verdict(*asked, names.get(said, UNCLEAR), change, test, len(seeds), by_seed, told)


def within_seeds(worse: Sequence[Sequence[float]], better: Sequence[Sequence[float]]) -> Estimate:
    """Return how much higher `better` is than `worse` within a seed, by a paired t over seeds.

    Where seeds agree to the last digit, there is nothing to judge by, and the interval holds all.
    """
    apart = numpy.array(better).mean(1) - numpy.array(worse).mean(1)
    count, mean, std = len(apart), float(apart.mean()), float(apart.std(ddof=1))
    if std == 0:
        return Estimate(mean, std, -math.inf, math.inf, count, count)
    found = ttest_1samp(apart, 0.0).confidence_interval(LEVEL)
    return Estimate(mean, std, float(found.low), float(found.high), count, count)


def direction(change: Estimate) -> str:
    """Return `higher` or `lower` where an interval says so."""
    return "higher" if change.low > 0 else "lower" if change.high < 0 else ""


def fair(claim: Claim, found: Sequence[Record]) -> bool:
    """Return whether runs can be compared: by time, not all can."""
    return claim.measure != "seconds" or alike(found)


def sides(claim: Claim, records: Records, seed: int) -> tuple[list[float], list[float]]:
    """Return what each picture of the claim's worse and better side got, of one seed."""
    better = _found(records, claim.better, seed)
    if claim.worse is None:
        before, after = (values([better.evaluations[i]], claim) for i in (0, -1))
        return (after, before) if claim.falls else (before, after)
    worse = _found(records, claim.worse, seed)
    if claim.measure == "seconds":
        end = min(better.seconds, worse.seconds)
        return values_at(worse, claim, end), values_at(better, claim, end)
    return values(counted(worse, claim), claim), values(counted(better, claim), claim)


def counted(record: Record, claim: Claim) -> Sequence[Evaluation]:
    """Return the evaluations that a claim looks at."""
    return record.evaluations[-1:] if claim.measure == "end" else record.evaluations[1:]


def values_at(record: Record, claim: Claim, end: float) -> list[float]:
    """Return what each picture got after so many seconds, between two evaluations in proportion."""
    times = [one.seconds for one in record.evaluations]
    of_each = numpy.array([values([one], claim) for one in record.evaluations]).T
    return [float(numpy.interp(end, times, own)) for own in of_each]


def values(chosen: Sequence[Evaluation], claim: Claim) -> list[float]:
    """Return what each picture got, averaged over the claim's steps and some evaluations."""
    keys = [f"eval/{claim.better.reward}/{n}-step" for n in claim.steps]
    return numpy.mean([[one.scores[k] for k in keys] for one in chosen], axis=(0, 1)).tolist()


def _found(records: Records, cell: Cell, seed: int) -> Record:
    record = records.get(cell, seed)
    assert record is not None, "seeds were chosen by it"
    return record
