"""Draws what was measured, as the paper draws its figures: rewards on the way, over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.paper import experiments
from benchmarks.paper.cells import Cell
from benchmarks.paper.experiments import BASE, BASELINES, STEPS
from benchmarks.paper.records import Record, Records, alike, samples
from diffrl.report.charts import INK, Chart, Line, draw, write

FAINT = "#c9d0d8"
SCORES = {"aesthetic": "Aesthetic score", "pickscore": "PickScore"}


def charts(records: Records) -> list[Chart]:
    """Return the charts of all figures, as far as their runs are there."""
    algorithms = {algo: experiments.unseen(algo, "aesthetic") for algo in ("sdpo", *BASELINES)}
    found = [
        chart(records, f"fig-4-{n}", f"Aesthetic score in {_steps(n)}", algorithms, (n,))
        for n in STEPS
    ]
    predictors = {"adaptive anchor": BASE, **experiments.PREDICTORS}
    found += [
        chart(records, "fig-5-samples", "Reward predictors", predictors),
        chart(records, "fig-5-seconds", "Reward predictors", predictors, axis="seconds"),
        chart(records, "fig-5-gamma", "Discount γ", {"γ = 0.99": BASE, **experiments.GAMMAS}),
        chart(
            records, "fig-6-norm", "Normalised", {"per prompt and step": BASE, **experiments.NORMS}
        ),
        chart(records, "fig-6-decay", "Decay λ", {"0.99": BASE, **experiments.DECAYS}),
        chart(records, "fig-6-order", "Updates", {"shuffled": BASE, **experiments.ORDERS}),
    ]
    mixed = {"sdpo, mixed steps": experiments.SDPO_MIXED}
    mixed |= {f"ddpo, {name}": cell for name, cell in experiments.DDPO_OF.items()}
    found += [chart(records, f"fig-7-{n}", f"PickScore in {_steps(n)}", mixed, (n,)) for n in STEPS]
    found.append(chart(records, "fig-8", "Sampled as an LCM is", experiments.LCM))
    early = {"λ = 0.99": BASE, **{f"λ = {name}": cell for name, cell in experiments.EARLY.items()}}
    early |= {"λ = 0.99, normalised per prompt": experiments.NORMS["per prompt"]}
    found.append(chart(records, "looked-into", "Weight on the first steps", early))
    return [one for one in found if one is not None]


def save(records: Records, folder: Path) -> dict[str, str]:
    """Write the charts as SVG files; return what each shows in words, by its name."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = charts(records)
    for one in drawn:
        figure = draw(one, INK, FAINT)
        figure.patch.set_facecolor("white")
        write(folder / f"{one.name}.svg", figure)
        figure.clear()
    return {one.name: f"{one.title}: {one.y_label} over {one.x_label}" for one in drawn}


def chart(
    records: Records,
    name: str,
    title: str,
    cells: Mapping[str, Cell],
    steps: Sequence[int] = STEPS,
    axis: str = "samples",
) -> Chart | None:
    """Return the curves of cells: means over seeds, with a band of their deviation.

    Only seeds count that all of these cells have finished, and by time only those that ran on one
    machine at one commit: curves of other seeds, machines or code would differ by these.

    Args:
        records: of a tier.
        name: of the file.
        title: above the axes.
        cells: by the label of their curve; those without a finished run are left out.
        steps: numbers of denoising steps whose scores are averaged.
        axis: `samples`, or `seconds` of training.
    """
    begun = {label: cell for label, cell in cells.items() if records.finished(cell)}
    every = records.seeds([*begun.values()]) if begun else []
    of_seed = [[records.get(cell, seed) for cell in begun.values()] for seed in every]
    if axis == "seconds":
        of_seed = [own for own in of_seed if alike([run for run in own if run])]
    if not of_seed:
        return None
    lines = []
    for i, (label, cell) in enumerate(begun.items()):
        runs = [run for own in of_seed if (run := own[i])]
        curves = [_scores(run, cell, steps) for run in runs]
        if axis == "seconds":
            times = [[one.seconds for one in run.evaluations] for run in runs]
            x = [statistics.mean(column) for column in zip(*times, strict=True)]
        else:
            each = samples(cell, records.tier)
            x = [float(each * one.epoch) for one in runs[0].evaluations]
        y = [statistics.mean(column) for column in zip(*curves, strict=True)]
        band = [statistics.stdev(c) for c in zip(*curves, strict=True)] if len(runs) > 1 else []
        lines.append(Line(label, x, y, band))
    many = f"{len(of_seed)} seed{'s' if len(of_seed) > 1 else ''}"
    spread = " (± sd over seeds)" if len(of_seed) > 1 else ""
    label = SCORES[next(iter(begun.values())).reward] + spread
    return Chart(name, f"{title}, {many}", axis, lines, dots=True, y_label=label)


def _scores(run: Record, cell: Cell, steps: Sequence[int]) -> list[float]:
    return [
        statistics.mean(v for n in steps for v in one.scores[f"eval/{cell.reward}/{n}-step"])
        for one in run.evaluations
    ]


def _steps(n: int) -> str:
    return f"{n} step{'s' if n > 1 else ''}"
