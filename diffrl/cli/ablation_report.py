"""The table and the plots of an ablation."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffrl.figures import short
from diffrl.folder import read_metrics, write

if TYPE_CHECKING:
    from diffrl.cli.grid import Cell

Lines = list[dict[str, Any]]


def write_report(folder: Path, cells: Sequence[Cell]) -> str:
    """Write `table.md`, `table.json`, `curves.json` and two plots; return the table."""
    runs: dict[str, list[Lines]] = {}
    for cell in cells:
        runs.setdefault(cell.name, []).append(read_metrics(cell.folder))
    rows = {name: summary(seeds) for name, seeds in runs.items()}
    text = table(rows)
    write(folder / "table.md", text + "\n")
    write(folder / "table.json", json.dumps(rows, indent=1) + "\n")
    curves = {name: [curve(lines) for lines in seeds] for name, seeds in runs.items()}
    write(folder / "curves.json", json.dumps(curves) + "\n")
    for axis in ("samples", "seconds"):
        plot(folder / f"reward-over-{axis}.png", runs, axis)
    return text


def summary(seeds: Sequence[Lines]) -> dict[str, Any]:
    """Return the scores before and after, seconds and reward queries of one cell, per seed."""
    ends = [line for lines in seeds for line in (lines[0], lines[-1])]
    scores = [k for k in ends[-1] if k.startswith("eval/") and all(k in line for line in ends)]
    return {
        "seeds": len(seeds),
        "before": {key: [lines[0][key] for lines in seeds] for key in scores},
        "after": {key: [lines[-1][key] for lines in seeds] for key in scores},
        "seconds": [lines[-1]["seconds"] for lines in seeds],
        "reward_queries": [sum(m.get("reward_queries", 0) for m in lines) for lines in seeds],
    }


def curve(lines: Lines) -> dict[str, list[int | float | None]]:
    """Return what one run's plots are drawn from, by epoch: samples, seconds, rewards, scores."""
    keys = [k for k in lines[-1] if k.startswith("eval/") or k in ("epoch", "samples", "seconds")]
    keys += [k for k in lines[-1] if k.startswith("reward/") and k.endswith(("/mean", "/std"))]
    return {k: [m[k] if k in m else None for m in lines] for k in keys}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the cells as Markdown: mean ± standard deviation over seeds."""
    first = next(iter(rows.values()))["after"]
    scores = [key for key in first if all(key in row["after"] for row in rows.values())]
    columns = [key.removeprefix("eval/").replace("/", " ") for key in scores]
    head = ["varied", "seeds", *columns, "seconds", "reward queries"]
    lines = [head, ["---"] * len(head)]
    for name, row in rows.items():
        after = [spread(row["after"][key], short) for key in scores]
        costs = [spread(row[key], "{:.0f}".format) for key in ("seconds", "reward_queries")]
        lines.append([f"`{name}`", str(row["seeds"]), *after, *costs])
    starts: dict[tuple[str, ...], list[str]] = {}
    for name, row in rows.items():
        start = tuple(short(statistics.mean(row["before"][key])) for key in scores)
        starts.setdefault(start, []).append(f"`{name}`")
    for start, names in starts.items():  # other samplers start from other pictures
        of = f", {', '.join(names)}" if len(starts) > 1 else ""
        lines.append([f"before training{of}", "", *start, "", ""])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float], shown: Callable[[float], str]) -> str:
    """Return mean ± sample standard deviation; without the latter for one value."""
    mean = shown(statistics.mean(values))
    return mean if len(values) == 1 else f"{mean} ± {shown(statistics.stdev(values))}"


def plot(path: Path, runs: dict[str, list[Lines]], axis: str) -> None:
    """Draw each reward in training over samples or seconds: mean over seeds, band ± deviation."""
    every = next(iter(runs.values()))[0][-1]
    keys = [k for k in every if k.startswith("reward/") and k.endswith("/mean")]
    if not keys:  # learned from data: no picture was scored in training
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(keys), 1, figsize=(8, 4.5 * len(keys)), squeeze=False)
    for panel, key in zip(axes[:, 0], keys, strict=True):
        for name, seeds in runs.items():
            if any(key not in lines[-1] for lines in seeds):
                continue
            shortest = range(1, min(len(lines) for lines in seeds))
            epochs = [e for e in shortest if all(key in lines[e] for lines in seeds)]
            x = [statistics.mean(lines[e][axis] for lines in seeds) for e in epochs]
            mean = [statistics.mean(lines[e][key] for lines in seeds) for e in epochs]
            panel.plot(x, mean, label=name)
            if len(seeds) > 1:
                band = [statistics.stdev([lines[e][key] for lines in seeds]) for e in epochs]
                low, high = ([m + s * b for m, b in zip(mean, band, strict=True)] for s in (-1, 1))
                panel.fill_between(x, low, high, alpha=0.15)
        panel.set_xlabel(axis)
        panel.set_ylabel(key.removeprefix("reward/").removesuffix("/mean"))
        panel.legend(fontsize="small")
    figure.tight_layout()
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, format="png", dpi=120)
    partial.replace(path)
    pyplot.close(figure)
