"""Reproduces the tables and figures of the SDPO paper in the emoji world.

    python -m benchmarks.paper [--tier quick|full] [--only fig-5 …] [--jobs 2] [--minutes 60]

The same command continues where it was interrupted. Runs of one seed come before those of the
next, so that a part of the full tier says something, too. Writes
`benchmarks/results/paper_<tier>.json`; `python docs/generate.py` makes the page of it. Quick: one
seed, four short epochs, at most 20 minutes on two cores; it shows that everything works, not what
is true. Full: five seeds of the default run, about 20 core-hours.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks.default_run import machine
from benchmarks.paper import accuracy
from benchmarks.paper.cells import TIERS, finished, run_all
from benchmarks.paper.experiments import PARTS, cells_of
from benchmarks.paper.verdicts import judge
from diffrl.folder import environment, read_metrics

ROOT = Path(__file__).resolve().parents[2]
ACCURACY = "table-2-3"


def main() -> None:
    """Run what is not finished yet, and write what there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tier", choices=list(TIERS), default="quick")
    parser.add_argument("--only", nargs="+", choices=[*PARTS, ACCURACY], default=[*PARTS, ACCURACY])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=1e9, help="start no run after these")
    parser.add_argument("--folder", type=Path, default=ROOT / "ablations" / "paper")
    options = parser.parse_args()
    tier = TIERS[options.tier]
    until = time.monotonic() + 60 * options.minutes
    root = options.folder / tier.name
    target = ROOT / "benchmarks" / "results" / f"paper_{tier.name}.json"
    before = json.loads(target.read_text("utf-8")) if target.exists() else {}
    table = before.get("accuracy")
    if ACCURACY in options.only and (table or {}).get("rollouts") != tier.rollouts:
        rewards, alike = accuracy.measured(tier.rollouts)
        table = {"rollouts": tier.rollouts, "rewards": rewards, "least_cosine": alike}
    wanted = [claim for name in options.only if name in PARTS for claim in PARTS[name]()]
    left, failed = run_all(cells_of(wanted), tier, root, options.jobs, until)
    claims = [claim for part in PARTS.values() for claim in part()]
    result = {
        "tier": tier.name,
        "machine": machine(),
        "environment": {k: v for k, v in environment().items() if k != "command"},
        "settings": tier.sets,
        "runs": {
            cell.name: [
                round(read_metrics(folder)[-1]["seconds"])
                for seed in range(42, 42 + tier.seeds)
                if finished(folder := cell.folder(root, seed))
            ]
            for cell in cells_of(claims)
        },
        "seeds_of_the_tier": tier.seeds,
        "accuracy": table,
        "verdicts": [judge(claim, root, tier).record() for claim in claims],
    }
    target.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    said = [verdict["said"] for verdict in result["verdicts"]]
    print(f"{target}: " + ", ".join(f"{said.count(s)} {s}" for s in dict.fromkeys(said)))
    if left or failed:
        sys.exit(f"{left} runs are still to be made; {len(failed)} failed")


if __name__ == "__main__":
    main()
