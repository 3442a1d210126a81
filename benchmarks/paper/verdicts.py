"""Claims beside what was measured. The test is named in every verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy

from benchmarks.paper.cells import Cell, Tier, finished
from benchmarks.paper.experiments import Claim
from diffrl.evidence.intervals import Estimate, between_runs, difference
from diffrl.folder import EVALUATIONS, read_metrics

REPRODUCED, UNCLEAR, CONTRADICTED = "reproduced", "not distinguishable", "contradicted"
FOR, AGAINST = "one seed, for", "one seed, against"
"""One seed compares two models and not two ways of training: no verdict."""

WELCH = "Welch's t over seeds"
PAIRED = "paired bootstrap over pictures of one seed"


@dataclass(frozen=True)
class Verdict:
    """A claim with the difference that was found; `seeds` of 0: nothing was run."""

    place: str
    text: str
    said: str
    change: Estimate | None
    test: str
    seeds: int

    def record(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def judge(claim: Claim, root: Path, tier: Tier) -> Verdict:
    """Return the verdict on a claim, from the seeds that both of its cells have finished."""
    sides = [claim.better] + ([claim.worse] if claim.worse else [])
    seeds = [
        seed
        for seed in range(42, 42 + tier.seeds)
        if all(finished(cell.folder(root, seed)) for cell in sides)
    ]
    if not seeds:
        return Verdict(claim.place, claim.text, "not run", None, "", 0)
    better = [values(claim.better, root, seed, claim) for seed in seeds]
    if claim.worse is None:
        worse = [values(claim.better, root, seed, claim, before=True) for seed in seeds]
    else:
        worse = [values(claim.worse, root, seed, claim) for seed in seeds]
    if len(seeds) > 1:
        change, said = between_runs(worse, better)
        test = WELCH
    else:
        # With four prompts or forty, pictures are the units: other prompts are not asked about.
        change, said = difference(worse[0], better[0], [str(i) for i in range(len(better[0]))])
        test = PAIRED
    several = len(seeds) > 1
    names = {
        "higher": REPRODUCED if several else FOR,
        "lower": CONTRADICTED if several else AGAINST,
    }
    return Verdict(claim.place, claim.text, names.get(said, UNCLEAR), change, test, len(seeds))


def values(cell: Cell, root: Path, seed: int, claim: Claim, before: bool = False) -> list[float]:
    """Return what each picture of a run got, averaged over the claim's steps and evaluations."""
    folder = cell.folder(root, seed)
    records = [
        json.loads(p.read_text("utf-8")) for p in sorted((folder / EVALUATIONS).glob("*.json"))
    ]
    keys = [f"eval/{cell.reward}/{n}-step" for n in claim.steps]
    if before:
        chosen = records[:1]
    elif claim.measure == "end":
        chosen = records[-1:]
    elif claim.measure == "area":
        chosen = records[1:]
    else:
        chosen = within(records, folder, root, seed, claim)
    return numpy.mean([[r["scores"][k] for k in keys] for r in chosen], axis=(0, 1)).tolist()


def within(
    records: Sequence[dict[str, Any]], folder: Path, root: Path, seed: int, claim: Claim
) -> list[dict[str, Any]]:
    """Return the last evaluation in the time that the faster of the two runs took."""
    assert claim.worse is not None
    ends = [read_metrics(c.folder(root, seed))[-1]["seconds"] for c in (claim.better, claim.worse)]
    seconds = {int(m["epoch"]): m["seconds"] for m in read_metrics(folder)}
    inside = [r for r in records if seconds[int(r["epoch"])] <= min(ends) + 1e-6]
    return inside[-1:]
