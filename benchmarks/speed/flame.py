"""A flame graph of the default run, and how much of its time is not the networks'.

    python -m benchmarks.speed.flame [--epochs 40] [--set section.field=value] [--output FOLDER]

Runs `diffrl train --algo sdpo --reward pickscore` in this process, asks a hundred times a second
where it is, and writes `docs/images/speed-flame.svg` and `benchmarks/results/speed_profile.json`.
Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.speed.stacks import Frame, Sampler, network, phase

ROOT = Path(__file__).resolve().parents[2]
WIDTH, ROW, LETTER, LEAST = 1200, 17, 6.3, 0.002
"""Pixels of the picture, of a row, of a letter; share below which a frame is left out."""

DEEPEST = 27
"""Row of the picture below which nothing is drawn: imports call each other a hundred deep."""

COLORS = {
    "UNet": "#7aa6d8", "backward": "#4f7fb5", "VAE": "#8cc4a3", "text and reward": "#c7b36a",
    "": "#d98c6a", "around": "#d5d8dc",
}  # fmt: skip
LEGEND = {
    "UNet": "UNet", "backward": "backward", "VAE": "VAE", "text and reward": "text and reward",
    "": "outside the networks", "around": "calls one of them",
}  # fmt: skip


def main() -> None:
    """Run, sample, draw, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.flame", description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--output", type=Path, help="folder of both files, in place of the docs'")
    options = parser.parse_args()
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
    known = about(options)  # before files of the working tree change
    stacks, seconds = profiled(options.epochs, options.sets)
    picture = options.output or ROOT / "docs" / "images"
    result = options.output or ROOT / "benchmarks" / "results"
    (picture / "speed-flame.svg").write_text(flame(tree(stacks)), "utf-8")
    content = {**known, "seconds": seconds, **shares(stacks)}
    (result / "speed_profile.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    print(json.dumps(content["phases"], indent=1))


def profiled(epochs: int, sets: list[str]) -> tuple[Counter[tuple[Frame, ...]], float]:
    """Return the stacks of a run, and its seconds."""
    from diffrl.trainer import train

    with tempfile.TemporaryDirectory() as folder, Sampler() as sampler:
        began = time.perf_counter()
        train("sdpo", "pickscore", sets=sets, epochs=epochs, output=Path(folder) / "run")
        return sampler.stacks, time.perf_counter() - began


def about(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was run, and where."""
    from benchmarks.default_run import machine
    from diffrl.folder import environment

    known = {k: v for k, v in environment().items() if k != "command"}
    return {
        "machine": machine(),
        "environment": known,
        "epochs": options.epochs,
        "sets": options.sets,
    }


def shares(stacks: Mapping[tuple[Frame, ...], int]) -> dict[str, Any]:
    """Return each phase's share of all samples, by network, and what is outside of them."""
    total = sum(stacks.values())
    phases: dict[str, Counter[str]] = {}
    outside: Counter[str] = Counter()
    for stack, count in stacks.items():
        part, inside = phase(stack), network(stack)
        phases.setdefault(part, Counter())[inside or "outside networks"] += count
        if part == "epochs" and not inside:
            outside[innermost(stack)] += count
    epochs = sum(phases["epochs"].values())
    return {
        "samples": total,
        "phases": {
            name: {"share": sum(c.values()) / total,
                   **{k: v / sum(c.values()) for k, v in c.most_common()}}
            for name, c in phases.items()
        },
        "outside_networks_of_epochs": {k: v / epochs for k, v in outside.most_common(15)},
    }  # fmt: skip


def innermost(stack: tuple[Frame, ...]) -> str:
    """Return the innermost of a stack's functions that is diffrl's, and what that calls."""
    own = [i for i, (_, file) in enumerate(stack) if file.startswith(("diffrl", "plugins"))]
    called = stack[own[-1] : own[-1] + 2] if own else stack[-1:]
    return " → ".join(f"{function} ({file})" for function, file in called)


@dataclass
class Node:
    """A frame, with what it calls."""

    frame: Frame
    count: int = 0
    kinds: set[str] = field(default_factory=set)
    calls: dict[Frame, Node] = field(default_factory=dict)


def tree(stacks: Mapping[tuple[Frame, ...], int]) -> Node:
    """Return stacks as a tree, from where the run begins."""
    root = Node(("all", ""))
    for stack, count in stacks.items():
        names = [function for function, _ in stack]
        start = names.index("profiled") + 1 if "profiled" in names else 0
        node, inside = root, network(stack)
        for frame in (None, *stack[start:]):
            node = node if frame is None else node.calls.setdefault(frame, Node(frame))
            node.count += count
            node.kinds.add(inside)
    return root


def flame(root: Node) -> str:
    """Return the picture: callers above what they call, as wide as the time that they take."""
    boxes = list(_boxes(root, 0.0, 0, WIDTH / root.count))
    height = (max(row for row, *_ in boxes) + 1) * ROW + 30
    legend = "".join(
        f'<rect x="{10 + 190 * i}" y="6" width="12" height="12" fill="{COLORS[kind]}"/>'
        f'<text x="{27 + 190 * i}" y="16">{text}</text>'
        for i, (kind, text) in enumerate(LEGEND.items())
    )
    drawn = "\n".join(_drawn(*box, root.count) for box in boxes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="monospace" font-size="10.5">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n{legend}\n{drawn}\n</svg>\n'
    )


def _boxes(
    node: Node, left: float, row: int, scale: float
) -> Iterator[tuple[int, float, float, Node]]:
    width = node.count * scale
    if width < LEAST * WIDTH or row > DEEPEST:
        return
    yield row, left, width, node
    for child in sorted(node.calls.values(), key=lambda one: -one.count):
        yield from _boxes(child, left, row + 1, scale)
        left += child.count * scale


def _drawn(row: int, left: float, width: float, node: Node, total: int) -> str:
    function, file = node.frame
    kind = next(iter(node.kinds)) if len(node.kinds) == 1 else "around"
    name = function.rpartition("<locals>.")[2]
    room = int((width - 4) / LETTER)
    label = name if len(name) <= room else name[: max(room - 1, 0)] + "…"
    text = f'<text x="{left + 2:.1f}" y="{row * ROW + 42}">{escape(label)}</text>'
    title = escape(f"{function} {file}: {node.count / total:.1%}")
    return (
        f'<g><title>{title}</title><rect x="{left:.1f}" y="{row * ROW + 30}" '
        f'width="{max(width - 0.5, 0.5):.1f}" height="{ROW - 1}" fill="{COLORS[kind]}"/>'
        f"{text if room > 2 else ''}</g>"
    )


if __name__ == "__main__":
    main()
