"""Curves as SVG that takes the page's colors, and as files for papers and slides."""

from __future__ import annotations

import re
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffrl.errors import one_line
from diffrl.folder import is_number
from diffrl.report.groups import Group

COLORS = ("#3b82c4", "#e0803a", "#3fa45b", "#c94f5d", "#8a6bbf", "#1fa3a3", "#b08a2e", "#d36bb0")
STYLES: tuple[Any, ...] = ("solid", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
"""Of lines, one after the other once all colors are used."""

LONGEST, NAMED = 60, 48
"""Characters of a title, and of a line's name."""

WIDTH = 66
"""Characters of a legend that stand side by side, its marks among them."""

ROW = 0.17
"""Inches of a legend's row."""

INK, FAINT = "#10203a", "#bac3d0"
"""Stand-ins that become the page's own colors."""

PAPER = "fill: #ffffff"
"""What matplotlib draws behind everything."""

LARGEST = 1e38
"""Of larger numbers no axis can be drawn."""


@dataclass(frozen=True)
class Line:
    """A curve with a band: one value an x, and its deviation over seeds."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    band: Sequence[float] = ()


@dataclass(frozen=True)
class Chart:
    """Curves in one pair of axes; without a `y_label` the title says what is drawn."""

    name: str
    title: str
    x_label: str
    lines: Sequence[Line]
    log: bool = False
    dots: bool = field(default=False)
    y_label: str = ""


def over(group: Group, key: str, axis: str, label: str) -> Line | None:
    """Return a metric of a group's runs over `samples` or `seconds`: mean, and band ± deviation.

    Epochs without the metric in every run that has begun are left out; None if nothing is left.
    """
    runs = [{int(m["epoch"]): m for m in record.metrics} for record in group.begun]
    epochs = [
        e
        for e in sorted(runs[0])
        if all(is_finite(r.get(e, {}).get(key)) and is_finite(r[e].get(axis, 0)) for r in runs)
    ]
    if not epochs:
        return None
    x = [float(statistics.mean(r[e].get(axis, 0.0) for r in runs)) for e in epochs]
    y = [float(statistics.mean(r[e][key] for r in runs)) for e in epochs]
    if len(runs) == 1:
        return Line(label, x, y)
    return Line(label, x, y, [float(statistics.stdev(r[e][key] for r in runs)) for e in epochs])


def is_finite(value: Any) -> bool:
    """Return whether a metric is there, and a number that can be drawn."""
    return is_number(value) and -LARGEST < value < LARGEST


def chart(
    name: str,
    title: str,
    axis: str,
    groups: Sequence[Group],
    keys: Sequence[tuple[str, str]],
    log: bool = False,
) -> Chart | None:
    """Return a chart of metrics, each with a label, for all groups; None if no run has any."""
    lines = []
    for group in groups:
        for key, label in keys:
            parts = [group.name if len(groups) > 1 else "", label]
            line = over(group, key, axis, " ".join(filter(None, parts)) or title)
            lines += [line] if line else []
    if not lines:
        return None
    log = log and all(v > 0 for line in lines for v in line.y)
    few = max(len(line.x) for line in lines) < 12
    file = re.sub(r"[^\w.+-]+", "-", name)[:100]  # names of rewards are read from files
    return Chart(f"{file}-over-{axis}", title, axis, lines, log, few)


def save(charts: Sequence[Chart], folder: Path) -> list[str]:
    """Write charts as PNG and SVG files; return each as SVG for a page."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = []
    with warnings.catch_warnings():  # a browser has the letters that this font lacks
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        for one in charts:
            figure = draw(one, INK, FAINT)
            for kind in ("png", "svg"):
                write(folder / f"{one.name}.{kind}", figure)
            pages.append(inline((folder / f"{one.name}.svg").read_text("utf-8")))
            figure.clear()
    return pages


def draw(one: Chart, ink: str, faint: str) -> Any:
    """Return the matplotlib figure of a chart."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(4.4, 2.9), layout="constrained")
        axes = figure.subplots()
        drawn = []
        for number, line in enumerate(one.lines):
            color = COLORS[number % len(COLORS)]
            style = STYLES[number // len(COLORS) % len(STYLES)]
            drawn += axes.plot(
                line.x, line.y, color=color, linestyle=style, linewidth=1.7,
                marker="o" if one.dots or len(line.x) == 1 else None, markersize=3.5,
            )  # fmt: skip
            if line.band:
                low, high = (
                    [y + sign * b for y, b in zip(line.y, line.band, strict=True)]
                    for sign in (-1, 1)
                )
                axes.fill_between(line.x, low, high, color=color, alpha=0.18, linewidth=0)
        if one.log:
            axes.set_yscale("log")
        axes.set_title(_plain(one.title), color=ink, fontsize=10, loc="left")
        axes.set_xlabel(one.x_label, color=ink)
        axes.set_ylabel(_plain(one.y_label), color=ink)
        axes.tick_params(colors=ink)
        axes.grid(color=faint, linewidth=0.6, alpha=0.6)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(faint)
        if len(one.lines) > 1:
            _legend(figure, drawn, _names([line.label for line in one.lines]), ink)
    return figure


def _legend(figure: Any, lines: Sequence[Any], labels: Sequence[str], ink: str) -> None:
    """Name the lines below the axes, where no curve can lie, and make room for it."""
    # matplotlib leaves out what begins with an underscore
    labels = [label if label[:1] != "_" else f" {label}" for label in labels]
    columns = max(1, min(len(labels), WIDTH // (6 + max(map(len, labels)))))
    rows = -(-len(labels) // columns)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + ROW * rows)
    figure.legend(
        lines, labels, loc="outside lower left", ncols=columns, frameon=False,
        labelcolor=ink, fontsize=8, columnspacing=1.2,
    )  # fmt: skip


def _names(labels: Sequence[str]) -> list[str]:
    """Return names of lines, shortened as far as they stay different."""
    short = [_plain(label, NAMED) for label in labels]
    return [
        one if short.count(one) == 1 else _plain(label, len(label) + 1)
        for one, label in zip(short, labels, strict=True)
    ]


def _plain(text: str, most: int = LONGEST) -> str:
    """Return text that matplotlib does not take for mathematics, and that leaves some room."""
    text = one_line(text)
    end = most // 3  # names of runs often differ there
    short = text if len(text) <= most else f"{text[: most - end - 1]}…{text[-end:]}"
    return short.replace("$", r"\$")


def write(path: Path, figure: Any) -> None:
    """Write a figure as the kind of file that the name ends in; the same one is the same bytes."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "diffrl"}):
        partial = path.with_name(f".{path.name}")
        meta = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(partial, format=path.suffix[1:], dpi=150, metadata=meta)
        partial.replace(path)


def inline(svg: str) -> str:
    """Return a chart's file as an element in the page's colors, as wide as its place."""
    svg = svg[svg.index("<svg") :].replace(PAPER, "fill: none")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace(INK, "var(--ink)").replace(FAINT, "var(--line)")
