"""The tables of what each means of speed gains, from `benchmarks/results/speed_ablation_*.json`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from generators.markdown import commit, table
from generators.speed import MISSING, RESULTS, SIZES, machine_parts

BASE = "base"
HEAD = (
    "", "settings", "alone, trajectories a second", "spread", "gain", "gain in processor time",
    "together without it, or with", "peak memory, GiB", "log-prob gap", "a tenth of the clip range",
    "passes", "off sampling",
)  # fmt: skip


def ablation() -> str:
    """Return what each means of speed gains, for each size that was measured."""
    return "\n\n".join(part for name in SIZES for part in _size(name))


def _size(name: str) -> Iterator[str]:
    path = RESULTS / f"speed_ablation_{name}.json"
    yield f"### {SIZES[name].partition(':')[0]}"
    if not path.exists():
        size = name.replace("_", "-")
        yield f"{MISSING} `python -m benchmarks.speed.ablation --size {size}`"
        return
    found = json.loads(path.read_text("utf-8"))
    if BASE in found["configurations"]:
        yield table(HEAD, _means(found))
    else:
        head = ("", "trajectories a second", HEAD[3], *HEAD[-5:])
        yield table(head, _configurations(found))
    yield " ".join(_about(found))
    for row, why in found["refused"].items():
        yield f"Not in this version: `{row}` ({why})."


def _about(found: Mapping[str, Any]) -> Iterator[str]:
    base = " ".join(f"`{one}`" for one in found["base"])
    yield f"The base is {base}. {found['machine']}, {machine_parts(found)}, commit {commit(found)}."
    yield "Lines without figures are not measured yet."
    if found["sets"]:
        yield "In all of them: " + " ".join(f"`{one}`" for one in found["sets"]) + "."
    spreads = [100 * spread(one["epochs"]) for one in found["configurations"].values()]
    yield (
        f"*Spread* is how far the epochs of a line, of one length, lie apart, in parts of their "
        f"median: {statistics.median(spreads):.0f} % in the median of all configurations, "
        f"{max(spreads):.0f} % at the most."
    )
    if BASE in found["configurations"]:
        yield (
            "A gain in bold is one where every epoch lies on one side of every epoch of the base "
            "of that length; the others these repeats do not tell from none."
        )
    yield (
        "Where other work shared the machine, the gain in seconds says little, and that in "
        "processor time is the one to read."
    )


def spread(epochs: Sequence[Mapping[str, Any]]) -> float:
    """Return how far seconds lie apart, in parts of their median: the most of any length."""
    return max((max(one) - min(one)) / statistics.median(one) for one in _by_length(epochs))


def resolved(epochs: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether all epochs are quicker than any of the base of that length, or all slower."""
    pairs = list(zip(_by_length(epochs), _by_length(base), strict=True))
    return all(max(a) < min(b) for a, b in pairs) or all(min(a) > max(b) for a, b in pairs)


def _by_length(epochs: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Return the seconds of epochs, by how many rows they trained, which tells their length."""
    found: dict[int, list[float]] = {}
    for one in epochs:
        found.setdefault(one["rows"]["unet/grad"], []).append(one["seconds"])
    return [found[rows] for rows in sorted(found)]


def _configurations(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield what was measured, where the plain base was not."""
    for name, own in found["configurations"].items():
        told = own["summary"]
        yield (
            name,
            f"{told['trajectories_per_second']:.1f}",
            f"{spread(own['epochs']):.0%}",
            f"{told['memory'] / 2**30:.1f}",
            *_gaps(own),
        )


def _means(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    measured = found["configurations"]
    base = measured[BASE]
    wall, spent = "trajectories_per_second", "trajectories_per_processor_second"
    joined = [row["name"] for row in found["rows"] if row["together"]]
    sets = {row["name"]: " ".join(f"`{one}`" for one in row["sets"]) for row in found["rows"]}
    sets |= {BASE: "", "together": ", ".join(joined)}
    for name, said in sets.items():
        if name not in measured:
            yield name, said, *[""] * (len(HEAD) - 2)
            continue
        own = measured[name]["summary"]
        mark = "**" if resolved(measured[name]["epochs"], base["epochs"]) else ""
        yield (
            name,
            said,
            f"{own[wall]:.1f}",
            f"{spread(measured[name]['epochs']):.0%}",
            f"{mark}{own[wall] / base['summary'][wall]:.2f} ×{mark}",
            f"{own[spent] / base['summary'][spent]:.2f} ×",
            _rest(measured, name, wall),
            f"{own['memory'] / 2**30:.2f}",
            *_gaps(measured[name]),
        )


def _rest(measured: Mapping[str, Any], name: str, wall: str) -> str:
    """Return what all together reach without a means, or with it, and how far off sampling."""
    for said, way in (("", "without"), ("with: ", "with")):
        if (other := measured.get(f"together {way} {name}")) is not None:
            told = other["summary"]
            off = told.get("sampling_gap")
            return f"{said}{told[wall]:.1f}" + (f" (off {gap(off)})" if off else "")
    return ""


def _gaps(own: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the gap, its limit, whether it passes and by what, and how far sampling was off."""
    told = own["summary"]
    recomputes = [one for one in own["sets"] if one.startswith("speed.recompute=")]
    by = " (recomputed)" if recomputes[-1:] == ["speed.recompute=on"] else ""
    return (
        gap(told["log_prob_gap"]),
        gap(told["gap_limit"]) if told["gap_limit"] else "",
        f"yes{by}" if told["passes"] else "**no**",
        gap(told["sampling_gap"]) if "sampling_gap" in told else "",
    )


def gap(value: float) -> str:
    """Return a difference of log-probs in words."""
    return f"{value:.1e}" if value else "0"
