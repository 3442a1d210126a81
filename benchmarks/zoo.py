"""Trains every first-party algorithm on several seeds, with its defaults, and compares them.

    python -m benchmarks.zoo [--seeds 3] [--jobs 2] [--folder ablations/zoo]

Writes `benchmarks/results/zoo.json`, every run's epochs in `zoo_curves.json` beside it, and the
curves in `docs/images/`. The runs are those of
`diffrl ablate --vary algo=…` in the preset `emoji`; the same command continues what was
interrupted. Each of `--jobs` runs gets its share of the cores. Nothing else should run on the
machine meanwhile, or the seconds are worth nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.default_run import machine
from diffrl.emoji import REAL_SCORES
from diffrl.folder import environment

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ALGORITHMS = ("sdpo", "ddpo", "d3po", "rebel", "prdp", "prdp-rebel")


def main() -> None:
    """Run what is not finished yet, and write the results."""
    options = arguments(__doc__, "zoo")
    result = measured(["--vary", f"algo={','.join(ALGORITHMS)}"], options)
    (RESULTS / "zoo.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    shutil.copyfile(options.folder / "curves.json", RESULTS / "zoo_curves.json")
    for axis in ("samples", "seconds"):
        name = f"reward-over-{axis}.png"
        shutil.copyfile(options.folder / name, ROOT / "docs" / "images" / f"zoo-{name}")
    print((options.folder / "table.md").read_text("utf-8"))


def arguments(doc: str | None, name: str) -> argparse.Namespace:
    """Return the options of a comparison of that name."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--epochs", type=int, help="of each run; default: the preset's")
    parser.add_argument("--reward", default="pickscore")
    parser.add_argument("--folder", type=Path, default=ROOT / "ablations" / name)
    parser.add_argument("--set", action="append", default=[], help="passed on")
    return parser.parse_args()


def measured(varied: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Run `diffrl ablate`, or what is left of it, and return its table with where it comes from."""
    command = ["ablate", "--reward", options.reward, *varied, "--seeds", str(options.seeds)]
    command += ["--epochs", str(options.epochs)] if options.epochs else []
    command += [word for one in options.set for word in ("--set", one)]
    how = ["--output", str(options.folder), "--jobs", str(options.jobs)]
    subprocess.run([sys.executable, "-m", "diffrl", *command, *how], check=True)
    real = json.loads(Path(REAL_SCORES).read_text("utf-8"))
    table = json.loads((options.folder / "table.json").read_text("utf-8"))
    return {
        "command": " ".join(["diffrl", *command]),
        "machine": machine(),
        "jobs": options.jobs,
        "environment": {k: v for k, v in environment().items() if k != "command"},
        "reward": options.reward,
        "real": {name: scores["mean"] for name, scores in real.items()},
        "algorithms": {name.partition("=")[2]: row for name, row in table.items()},
    }


if __name__ == "__main__":
    main()
