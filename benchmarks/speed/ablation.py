"""What each of diffrl's means of speed gains: alone, all together, and added to or left out of all.

    python -m benchmarks.speed.ablation [--size emoji|tiny|sd-turbo] [--repeats 3] [--only NAME …]

The base has none of them. Every configuration trains in a process of its own, one after the other.
Writes `benchmarks/results/speed_ablation_<size>.json`; what `--only` leaves out stays as it was
measured before. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.speed.worker import Job, Worker

RESULTS = Path(__file__).resolve().parents[1] / "results"

BASE = (
    "train.sample_batch=2", "train.decode_batch=2", "train.micro_batch=2", "train.overlap=off",
    "model.precision=fp32", "optimizer.fused=off", "speed.cache_text=false",
    "speed.attention=plain", "speed.recompute=off", "speed.deduplicate=off",
    "speed.fused_adapters=off",
)  # fmt: skip
"""Plain: a pair at a time is sampled, decoded, scored and trained, in fp32; text is encoded each
time, attention, optimizer and adapters are not fused, log-probs are those of sampling, and every
row is predicted."""

TOGETHER, BARE = "together", "base"


@dataclass(frozen=True)
class Row:
    """One means of speed.

    Args:
        name: in the table.
        sets: that switch it on.
        together: whether it is among those that are on together.
        gpu: whether it is measured on a GPU only.
    """

    name: str
    sets: tuple[str, ...]
    together: bool = True
    gpu: bool = False


ROWS = (
    Row("sample-64", ("train.sample_batch=64",)),
    Row("decode-16", ("train.decode_batch=16",)),
    Row("micro-8", ("train.micro_batch=8",), together=False),
    Row("micro-16", ("train.micro_batch=16",)),
    Row("micro-32", ("train.micro_batch=32",), together=False),
    Row("bf16", ("model.precision=bf16",)),
    Row("recomputed", ("speed.recompute=on",)),
    Row("overlap", ("train.overlap=on",)),
    Row("deduplicated", ("speed.deduplicate=auto",)),
    Row("cached-text", ("speed.cache_text=true",)),
    Row("fused-adamw", ("optimizer.fused=on",)),
    Row("fused-attention", ("speed.attention=fused",)),
    Row("fused-adapters", ("speed.fused_adapters=auto",)),
    Row("channels-last", ("speed.channels_last=true",)),
    Row("half-norms", ("speed.half_norms=true",), gpu=True),
    Row("bf16-reward", ("rewards.pickscore.precision=bf16",), gpu=True),
    Row("merged-adapters", ("speed.merge=true",), together=False),
    Row("low-memory", ("speed.cache_text=true", "speed.low_memory=true"), together=False),
    Row("tf32", ("speed.tf32=true",), gpu=True),
    Row("compile", ("speed.compile=default",), together=False),
    Row("compile-graphs", ("speed.compile=reduce-overhead",), together=False, gpu=True),
    Row("cuda-graphs", ("speed.graphs=true",), together=False, gpu=True),
    Row("automatic-pieces", ("train.sample_batch=0", "train.micro_batch=0"), False, gpu=True),
)
"""Add a row for every further means. One that this version's settings refuse is listed as such."""


def main() -> None:
    """Measure what is asked for, and write it into the result."""
    options = arguments().parse_args()
    from diffrl.errors import DiffrlError

    target = options.output or RESULTS / f"speed_ablation_{options.size.replace('-', '_')}.json"
    before = json.loads(target.read_text("utf-8")) if target.exists() else {}
    try:
        for result in measured(options, before):
            target.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    except DiffrlError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    from benchmarks.speed.sizes import SIZES

    names = list(configurations(ROWS))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.ablation", description=__doc__
    )
    parser.add_argument("--size", choices=list(SIZES), default="emoji")
    parser.add_argument("--repeats", type=int, default=3, help="epochs of each number of steps")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--set", action="append", default=[], dest="sets", help="of every row")
    parser.add_argument("--folder", type=Path, help="for weights and runs; default: temporary")
    parser.add_argument("--output", type=Path, help="the result; default: benchmarks/results")
    return parser


def measured(options: argparse.Namespace, before: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the result after every configuration: those measured now, and before."""
    from benchmarks.default_run import machine
    from benchmarks.speed.sizes import SIZES
    from diffrl.folder import environment

    around = {k: v for k, v in environment().items() if k != "command"}  # of code as it begins
    on_gpu = SIZES[options.size].device == "cuda"
    rows = [row for row in ROWS if on_gpu or not row.gpu]
    found: dict[str, Any] = dict(before.get("configurations", {}))
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        usable, refused = known(rows, options, folder / "weights")
        for name, sets in configurations(usable).items():
            if options.only and name not in options.only:
                continue
            found[name] = one(tuple(sets), options, folder)
            print(name, json.dumps(found[name]["summary"]), flush=True)
            yield {
                "size": options.size,
                "machine": machine(),
                "environment": around,
                "sets": options.sets,
                "base": BASE,
                "rows": [asdict(row) for row in usable],
                "refused": refused,
                "configurations": dict(found),
            }


def known(
    rows: Iterable[Row], options: argparse.Namespace, weights: Path
) -> tuple[list[Row], dict[str, str]]:
    """Return the rows that the settings take, and what they say to the others."""
    from benchmarks.speed.sizes import settings_of
    from diffrl.errors import SettingsError

    settings_of(options.size, weights, options.sets)
    good, refused = [], {}
    for row in rows:
        try:
            settings_of(options.size, weights, [*BASE, *options.sets, *row.sets])
            good.append(row)
        except SettingsError as error:
            refused[row.name] = error.problems[0]
    return good, refused


def configurations(rows: Iterable[Row]) -> dict[str, list[str]]:
    """Return the settings of every configuration by its name."""
    rows = list(rows)
    joined = [row for row in rows if row.together]
    every = {BARE: list(BASE)}
    every |= {row.name: [*BASE, *row.sets] for row in rows}
    every[TOGETHER] = [*BASE, *(one for row in joined for one in row.sets)]
    for out in joined:
        left = [one for row in joined if row is not out for one in row.sets]
        every[f"{TOGETHER} without {out.name}"] = [*BASE, *left]
    for row in rows:
        if not row.together:
            every[f"{TOGETHER} with {row.name}"] = [*every[TOGETHER], *row.sets]
    return every


def one(sets: tuple[str, ...], options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return what a configuration reaches, and each of its epochs."""
    from benchmarks.speed.sizes import settings_of
    from diffrl.trainer.checks import SHARE

    sets = (*sets, *options.sets)
    settings = settings_of(options.size, folder / "weights", list(sets))
    lengths = list(settings.recipe.sampler.lengths) or [settings.recipe.sampler.steps]
    own = Path(tempfile.mkdtemp(dir=folder))
    worker = Worker(Job("diffrl", options.size, folder / "weights", own, sets))
    try:
        numbers = range(1, len(lengths) * (options.repeats + 1) + 1)
        every = [worker.ask("epoch", number) for number in numbers]
    finally:
        worker.stop()
    first, epochs = every[: len(lengths)], every[len(lengths) :]
    limit = settings.recipe.loss.log_ratio_limit
    gap, sampled = (max(e[k] for e in epochs) for k in ("log_prob_gap", "sampling_gap"))

    def per(name: str) -> float:
        """Return trajectories for each of those seconds, over epochs of all lengths."""
        apart = [epochs[i :: len(lengths)] for i in range(len(lengths))]
        medians = [statistics.median(epoch[name] for epoch in part) for part in apart]
        return settings.train.trajectories / statistics.mean(medians)

    return {
        "sets": sets,
        "summary": {
            "trajectories_per_second": per("seconds"),
            "trajectories_per_processor_second": per("processor_seconds"),
            "memory": max(epoch["memory"]["peak"] for epoch in epochs),
            "log_prob_gap": gap,
            "sampling_gap": sampled,
            "first_seconds": sum(epoch["seconds"] for epoch in first),
            "compiling_seconds": sum(epoch["compiling"] for epoch in every),
            "gap_limit": limit / SHARE if limit else None,
            "passes": not limit or gap <= limit / SHARE,
        },
        "epochs": epochs,
    }


if __name__ == "__main__":
    main()
