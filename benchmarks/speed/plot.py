"""The picture of a result: an epoch of both ways, cut into phases.

python -m benchmarks.speed.plot [--size emoji]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COLORS = {
    "sampling": "#7aa6d8", "decoding": "#8cc4a3", "scoring": "#c7b36a", "updating": "#4f7fb5",
    "saving": "#b08bb8", "other": "#d98c6a",
}  # fmt: skip
NAMES = {"published": "published schedule", "diffrl": "diffrl"}


def main() -> None:
    """Draw the picture of a size that has been measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.plot", description=__doc__)
    parser.add_argument("--size", default="emoji")
    name = parser.parse_args().size.replace("-", "_")
    result = ROOT / "benchmarks" / "results" / f"speed_{name}.json"
    draw(json.loads(result.read_text("utf-8")), ROOT / "docs" / "images" / f"speed-{name}.svg")


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write the picture: a bar of seconds for each way."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "diffrl", "font.size": 9}):
        figure = Figure(figsize=(7, 1.9), layout="constrained")
        axes = figure.subplots()
        left = dict.fromkeys(NAMES, 0.0)
        for phase, color in COLORS.items():
            widths = {way: result["summary"][way]["phases"][phase] for way in NAMES}
            axes.barh(
                list(NAMES.values()), list(widths.values()), left=list(left.values()),
                color=color, label=phase, height=0.6,
            )  # fmt: skip
            left = {way: left[way] + widths[way] for way in NAMES}
        for way, end in left.items():  # medians of phases do not add up to that of an epoch
            seconds = result["summary"][way]["seconds"]
            axes.text(end, NAMES[way], f" {seconds:.2f} s", va="center")
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlabel(f"seconds an epoch of {result['trajectories']} trajectories")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.legend(frameon=False, ncols=len(COLORS), loc="lower left", bbox_to_anchor=(0, 1))
        figure.savefig(path, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
