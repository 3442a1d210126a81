"""Measures training alone and beside another training, by how long OpenMP's threads wait turning.

    python -m benchmarks.side_by_side [--epochs 5] [--rounds 3]

Writes `benchmarks/results/side_by_side.json`: seconds of an epoch, mean over both lengths of the
preset's epochs and over the runs at a time, without the first of each. Runs that are alone take
turns, and their median counts, since a machine is not as fast at all times. Every run computes
with as many threads as the machine has cores. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.default_run import machine
from diffrl.cli.idling import SPINS
from diffrl.folder import environment, read_metrics

RESULT = Path(__file__).parent / "results" / "side_by_side.json"
OWN = "300000"
"""Turns of libgomp where nothing says how threads wait."""

WAYS: dict[str, dict[str, str]] = {
    **{n: {"GOMP_SPINCOUNT": n} for n in dict.fromkeys((OWN, SPINS, "1000"))},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}
SETS = ("eval.images=2", "eval.shown=1", "eval.steps=[1]", "eval.every=0", "train.track=[]")


def main() -> None:
    """Measure every way of waiting, with one and with two runs at a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--epochs", type=int, default=5, help="of a run; the first two do not count"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of runs that are alone")
    options = parser.parse_args()
    around = {k: v for k, v in environment().items() if k != "command"}
    alone: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(options.rounds):
        for name, own in WAYS.items():
            alone[name].append(seconds(own, 1, options.epochs))
        print(json.dumps(alone), flush=True)
    two = {name: seconds(own, 2, options.epochs) for name, own in WAYS.items()}
    result = {"machine": machine(), "environment": around, "own": OWN, "diffrl": SPINS}
    result |= {"alone": alone, "two": two}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def seconds(own: dict[str, str], at_once: int, epochs: int) -> float:
    """Return the seconds of an epoch of runs that begin together."""
    known = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    words = [sys.executable, "-m", "diffrl", "train", "--algo", "sdpo", "--reward", "pickscore"]
    words += ["--epochs", str(epochs), *(w for one in SETS for w in ("--set", one))]
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / str(n) for n in range(at_once)]
        running = [
            subprocess.Popen(
                [*words, "--output", str(place)],
                env=known | own,
                stdout=subprocess.DEVNULL,
            )
            for place in places
        ]
        if any([one.wait() for one in running]):
            sys.exit("a run failed")
        return round(statistics.mean(map(of_an_epoch, places)), 3)


def of_an_epoch(place: Path) -> float:
    """Return the mean seconds of a run's epochs, each length's first left out."""
    lines = [line for line in read_metrics(place) if line["epoch"]]
    spent = [sum(v for k, v in line.items() if k.startswith("seconds/")) for line in lines]
    lengths = [statistics.mean(spent[2 + n :: 2]) for n in range(2)]
    return statistics.mean(lengths)


if __name__ == "__main__":
    main()
