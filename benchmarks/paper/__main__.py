"""Reproduces the tables and figures of the SDPO paper in the emoji world.

    python -m benchmarks.paper [--tier quick|full] [--only fig-5 …] [--jobs 2] [--minutes 60]

The same command continues where it was interrupted, on another machine, too: what is kept of every
run lies in `benchmarks/results/paper_runs/`, as long as weights and settings are the same. Runs of
one seed come before those of the next, so that a part of the full tier says something, too. Writes
`benchmarks/results/paper_<tier>.json` and draws the curves into `docs/images/paper/<tier>/`;
`python docs/generate.py` makes the page of them. Quick: one seed, four short epochs, at most 20
minutes on two cores; it shows that everything works, not what is true. Full: five seeds of the
default run.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.paper import accuracy
from benchmarks.paper.cells import TIERS, Tier
from benchmarks.paper.experiments import PARTS, cells_of, table_one
from benchmarks.paper.figures import save
from benchmarks.paper.published import TABLE_ONE
from benchmarks.paper.records import NUMERICS, Records, before_and_after, gained, weights
from benchmarks.paper.records import ROOT as RECORDS
from benchmarks.paper.runs import run_all
from benchmarks.paper.verdicts import judge
from diffrl.emoji.world import UNSEEN
from diffrl.figures import without_nan
from diffrl.folder import environment, write

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs" / "images" / "paper"
ACCURACY = "table-2-3"


def main() -> None:
    """Run what is not finished yet, and write what there is."""
    options = _options()
    tier = TIERS[options.tier]
    until = time.monotonic() + 60 * options.minutes
    target = ROOT / "benchmarks" / "results" / f"paper_{tier.name}.json"
    before = json.loads(target.read_text("utf-8")) if target.exists() else {}
    table = _accuracy(before.get("accuracy") or {}, tier, ACCURACY in options.only)
    wanted = [claim for name in options.only if name in PARTS for claim in PARTS[name]()]
    records = Records(tier, options.records)
    root = options.folder / tier.name
    left, failed = run_all(cells_of(wanted), records, root, options.jobs, until)
    first = Records(replace(tier, seeds=1), options.records)
    result = _result(records, first, tier, table)
    result["figures"] = save(records, FIGURES / tier.name)
    write(target, _lines(result))
    said = [verdict["said"] for verdict in result["verdicts"]]
    print(f"{target}: " + ", ".join(f"{said.count(s)} {s}" for s in dict.fromkeys(said)))
    if left or failed:
        sys.exit(f"{left} runs are still to be made; {len(failed)} failed")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tier", choices=list(TIERS), default="quick", help="default: quick")
    parser.add_argument("--only", nargs="+", choices=[*PARTS, ACCURACY], default=[*PARTS, ACCURACY])
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time; default: 2")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no run after these")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "ablations" / "paper", help="of the runs"
    )
    parser.add_argument("--records", type=Path, default=RECORDS, help="what is kept of every run")
    return parser.parse_args()


def _accuracy(before: dict[str, Any], tier: Tier, measure: bool) -> dict[str, Any]:
    """Return Tables II and III as they were measured before, or measure them."""
    asked = {
        "rollouts": tier.rollouts,
        "weights": weights(),
        **({} if NUMERICS == 1 else {"numerics": NUMERICS}),
        "test": accuracy.TEST,
        "errors": accuracy.ERRORS,
    }
    if asked.items() <= before.items():
        return before
    if not measure:
        return {}  # those before are of other weights
    rewards, alike = accuracy.measured(tier.rollouts)
    return {**asked, "rewards": rewards, "least_cosine": alike}


def _result(records: Records, first: Records, tier: Tier, table: dict[str, Any]) -> dict[str, Any]:
    """Return what there is of all runs; `first` are those of one seed."""
    claims = [claim for part in PARTS.values() for claim in part()]
    found = {cell.name: records.finished(cell) for cell in cells_of(claims)}
    every = [one for own in found.values() for one in own]
    return {
        "tier": tier.name,
        "machines": sorted({one.machine for one in every}),
        "commits": sorted({one.commit for one in every}),
        "environment": {k: v for k, v in environment().items() if k != "command"},
        "settings": tier.sets,
        "runs": {name: [round(one.seconds) for one in own] for name, own in found.items()},
        "seeds_of_the_tier": tier.seeds,
        "published": TABLE_ONE,
        "by_prompt": {
            claim.better.name: gained(found[claim.better.name], UNSEEN) for claim in table_one()
        },
        "scores": {name: before_and_after(own) for name, own in found.items()},
        "accuracy": table,
        "first_seed": [judge(claim, first).said for claim in claims],
        "verdicts": [judge(claim, records).record() for claim in claims],
    }


def _lines(result: dict[str, Any]) -> str:
    """Return JSON with a line for each value or list of numbers, so that changes are seen."""
    text = json.dumps(without_nan(result), indent=1)
    return re.sub(r"\[[^][{}\"]*\]", lambda found: " ".join(found[0].split()), text) + "\n"


if __name__ == "__main__":
    main()
