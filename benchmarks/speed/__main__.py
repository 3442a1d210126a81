"""Measures an epoch of SDPO: diffrl's, and the same work in the published code's schedule.

    python -m benchmarks.speed [--size emoji|tiny|sd-turbo] [--repeats 5] [--set …]

Both train the same model on as many pictures, with as many optimizer steps, in processes of their
own that take turns: one epoch of each, in two orders in turn. Writes
`benchmarks/results/speed_<size>.json`. Nothing else should run on the machine meanwhile.
`sd-turbo` needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.speed.measured import agreed, summary
from benchmarks.speed.plot import draw
from benchmarks.speed.worker import WAYS, Job, Worker

RESULTS = Path(__file__).resolve().parents[1] / "results"
DOCS = Path(__file__).resolve().parents[2] / "docs" / "images"


def main() -> None:
    """Measure, check that both did the same work, write and print."""
    options = arguments().parse_args()
    from diffrl.errors import DiffrlError

    try:
        result = measured(options)
    except DiffrlError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    name = options.size.replace("-", "_")
    target = options.output or RESULTS / f"speed_{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    if options.output is None:
        draw(result, DOCS / f"speed-{name}.svg")
    for way in WAYS:
        print(way, json.dumps(result["summary"][way], indent=1))
    print("ratio", result["summary"]["ratio"])


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    from benchmarks.speed.sizes import SIZES

    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--size", choices=list(SIZES), default="emoji")
    parser.add_argument("--repeats", type=int, default=5, help="epochs of each number of steps")
    parser.add_argument("--set", action="append", default=[], dest="sets", help="of both ways")
    parser.add_argument("--folder", type=Path, help="for weights and runs; default: temporary")
    parser.add_argument("--output", type=Path, help="the result; default: benchmarks/results")
    parser.add_argument("--workers", type=int, help="threads of the published way that score")
    return parser


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Return the result of alternating epochs."""
    from benchmarks.default_run import machine
    from benchmarks.speed.sizes import saved_every, settings_of
    from diffrl.folder import environment

    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        settings = settings_of(options.size, folder / "weights", options.sets)
        lengths = list(settings.recipe.sampler.lengths) or [settings.recipe.sampler.steps]
        workers = {way: Worker(job(way, options, folder)) for way in WAYS}
        load = os.getloadavg()[0]
        try:
            repeats = alternating(workers, lengths, options.repeats)
            about = {way: worker.ask("about") for way, worker in workers.items()}
            flops = workers["published"].ask("flops")
            checkpoint = workers["diffrl"].ask("checkpoint")
        finally:
            for worker in workers.values():
                worker.stop()
    saving = {"seconds": checkpoint, "every": saved_every(options.size, options.sets)}
    result: dict[str, Any] = {
        "size": options.size,
        "sets": options.sets,
        "seed": settings.train.seed,
        "machine": machine(),
        "environment": {k: v for k, v in environment().items() if k != "command"},
        "load_before": load,
        "trajectories": settings.train.trajectories,
        "steps": lengths,
        "about": about,
        "flops_per_row": flops,
        "checkpoint": saving,
    }
    result["work"] = agreed(repeats, settings)
    result["summary"] = summary(result, repeats)
    return {**result, "repeats": repeats}


def job(way: str, options: argparse.Namespace, folder: Path) -> Job:
    """Return what one of the processes is to run, in a folder of its own."""
    own = Path(tempfile.mkdtemp(dir=folder))
    return Job(way, options.size, folder / "weights", own, tuple(options.sets), options.workers)


def alternating(
    workers: dict[str, Worker], lengths: list[int], repeats: int
) -> dict[str, list[dict[str, Any]]]:
    """Return what was measured of each way's epochs, after one of each length to warm up."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in workers}
    for number in range(1, len(lengths) * (repeats + 1) + 1):
        turn = list(workers)[:: 1 if number % 2 else -1]
        for way in turn:
            one = workers[way].ask("epoch", number)
            print(f"{way}, epoch {number}: {one['seconds']:.2f} s", flush=True)
            if number > len(lengths):
                steps = lengths[(number - 1) % len(lengths)]
                found[way].append({"epoch": number, "steps": steps, **one})
    return found


if __name__ == "__main__":
    main()
