"""The tables of speed, from `benchmarks/results/speed_*.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from generators.markdown import commit, table

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
SIZES = {
    "emoji": "Emoji, on a CPU: an epoch of the default run",
    "sd_turbo": "SD-Turbo, 512 pixels, on a GPU",
}
BASE = "base"
MISSING = "*Not measured yet.*"


def speed() -> str:
    """Return both ways beside each other, for each size that was measured."""
    return "\n\n".join(part for name in SIZES for part in _size(name))


def _size(name: str) -> Iterator[str]:
    path = RESULTS / f"speed_{name}.json"
    yield f"### {SIZES[name]}"
    if not path.exists():
        yield f"{MISSING} `python -m benchmarks.speed --size {name.replace('_', '-')}`"
        return
    found = json.loads(path.read_text("utf-8"))
    theirs, ours = (_with_reserved(found, way) for way in ("published", "diffrl"))
    yield f"![An epoch of both ways, by phase](images/speed-{name}.svg)"
    yield table(("", "published schedule", "diffrl", "ratio"), _rows(theirs, ours))
    yield " ".join(_about(found))


def _rows(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    def row(name: str, a: float, b: float, form: str) -> tuple[str, ...]:
        return (name, form.format(a), form.format(b), f"{b / a:.2f} ×" if a else "")

    yield "precision", theirs["precision"], ours["precision"], ""
    speeds = (way["trajectories_per_second"] for way in (theirs, ours))
    yield row("**trajectories a second**", *speeds, "{:.1f}")
    if len(ours["by_steps"]) > 1:
        for steps, own in ours["by_steps"].items():
            other = theirs["by_steps"][steps]["per_second"]
            yield row(f"… with {steps} steps", other, own["per_second"], "{:.1f}")
    yield row("**seconds an epoch**", theirs["seconds"], ours["seconds"], "{:.2f}")
    for name in ours["phases"]:
        yield row(f"… {name}", theirs["phases"][name], ours["phases"][name], "{:.2f}")
    spent = (way["processor_seconds"] for way in (theirs, ours))
    yield row("processor seconds an epoch", *spent, "{:.2f}")
    for kind, said in _memories(theirs, ours):
        yield row(said, *(way["memory"][kind] / 2**30 for way in (theirs, ours)), "{:.2f}")
    yield row(
        "model FLOPs an epoch, × 10⁹", *(w["model_flops"] / 1e9 for w in (theirs, ours)), "{:.0f}"
    )
    used = (100 * way["utilisation"] for way in (theirs, ours))
    yield row("of the rate of a matrix product, %", *used, "{:.0f}")
    if "unet_utilisation" in ours:
        for phase in ours["unet_utilisation"]:
            shares = (100 * way["unet_utilisation"][phase] for way in (theirs, ours))
            yield row(f"… the UNet's alone, {phase}, %", *shares, "{:.0f}")
    outside = [way["outside_networks"]["share"] for way in (theirs, ours)]
    yield "outside the networks", *(f"{100 * share:.1f} %" for share in outside), ""
    gaps = [way["log_prob_gap"] for way in (theirs, ours)]
    yield "log-prob gap", *(f"{gap:.1e}" if gap else "0" for gap in gaps), ""


def _about(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield where it was measured, and that both did the same."""
    steps = " and ".join(str(n) for n in found["steps"])
    repeats = len(found["repeats"]["diffrl"]) // len(found["steps"])
    most = max(found["summary"][way]["spread"] for way in ("published", "diffrl"))
    rates = {found["about"][way]["matmul_flops_per_second"] for way in ("published", "diffrl")}
    turns = " in turn, as the preset has them" if len(found["steps"]) > 1 else ""
    yield f"Epochs of {found['trajectories']} trajectories with {steps} steps{turns};"
    yield f"medians of {repeats} of each, the ways taking turns, after one to warm up;"
    yield f"the longest was at most {100 * most:.0f} % of the median above the shortest."
    yield f"{found['machine']}, {_parts(found)}, load"
    yield f"{found['load_before']:.1f} before; a matrix product reaches"
    yield f"{max(rates) / 1e9:,.0f} GFLOP/s;"
    yield f"commit {commit(found)}, seed {found['seed']}."
    if found["sets"]:
        yield "On top of the preset: " + " ".join(f"`{one}`" for one in found["sets"]) + "."
    for work in found["work"]:
        theirs, ours = work["published"], work["diffrl"]
        yield (
            f"With {work['steps']} steps each way made {ours['optimizer_steps']} optimizer "
            f"step{'s' if ours['optimizer_steps'] > 1 else ''} from {ours['unet/grad']} rows, and "
            f"sampled {theirs['unet/no-grad']}. Of {theirs['reward']} queries diffrl "
            f"scored the {ours['reward']} that are different pictures."
        )


def _parts(found: Mapping[str, Any]) -> str:
    """Return threads, and GPUs where there are some."""
    own = found["environment"]["machine"]
    return ", ".join([f"{own['threads']} threads", *own.get("gpus", [])])


def _with_reserved(found: Mapping[str, Any], way: str) -> dict[str, Any]:
    """Return the summary of a way, with the most of a GPU that torch held for it."""
    most = max(one["memory"].get("reserved", 0) for one in found["repeats"][way])
    own = found["summary"][way]
    return {**own, "memory": {**own["memory"], **({"reserved": most} if most else {})}}


def _memories(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what of memory was measured, and its name in the table."""
    if "reserved" in theirs["memory"] and "reserved" in ours["memory"]:
        yield "reserved", "memory that torch held, GiB"
        yield "peak", "… in tensors at once, but for those of recorded graphs"
        return
    yield "peak", "peak memory, GiB"
    yield "above", "… above the loaded models, GiB"


def ablation() -> str:
    """Return what each means of speed gains, for each size that was measured."""
    return "\n\n".join(part for name in SIZES for part in _ablation(name))


def _ablation(name: str) -> Iterator[str]:
    path = RESULTS / f"speed_ablation_{name}.json"
    yield f"### {SIZES[name].partition(':')[0]}"
    if not path.exists():
        size = name.replace("_", "-")
        yield f"{MISSING} `python -m benchmarks.speed.ablation --size {size}`"
        return
    found = json.loads(path.read_text("utf-8"))
    head = (
        "", "settings", "alone, trajectories a second", "gain", "gain in processor time",
        "together without it, or with",
        "peak memory, GiB", "log-prob gap", "a tenth of the clip range", "passes", "off sampling",
    )  # fmt: skip
    if BASE in found["configurations"]:
        yield table(head, _means(found))
    else:
        yield table(
            ("", "trajectories a second", *head[-5:]),
            _configurations(found),
        )
    base = " ".join(f"`{one}`" for one in found["base"])
    where = f"{found['machine']}, {_parts(found)}"
    yield (
        f"The base is {base}. {where}, commit {commit(found)}. Lines without "
        f"figures are not measured yet.{_of_each(found)} Where other work shared the machine, the "
        f"gain in seconds says little, and that in processor time is the one to read."
    )
    for row, why in found["refused"].items():
        yield f"Not in this version: `{row}` ({why})."


def _of_each(found: Mapping[str, Any]) -> str:
    """Return what was set in every configuration."""
    own = " ".join(f"`{one}`" for one in found["sets"])
    return f" In all of them: {own}." if own else ""


def _configurations(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield what was measured, where the plain base was not."""
    for name, own in found["configurations"].items():
        told = own["summary"]
        yield (
            name,
            f"{told['trajectories_per_second']:.1f}",
            f"{told['memory'] / 2**30:.1f}",
            f"{told['log_prob_gap']:.1e}",
            f"{told['gap_limit']:.1e}",
            "yes" if told["passes"] else "**no**",
            _off_sampling(told),
        )


def _off_sampling(told: Mapping[str, Any]) -> str:
    """Return how far log-probs are off those that sampling told, where that was measured."""
    return f"{told['sampling_gap']:.1e}" if "sampling_gap" in told else ""


def _means(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    measured = found["configurations"]
    base = measured[BASE]["summary"]
    wall, spent = "trajectories_per_second", "trajectories_per_processor_second"
    joined = [row["name"] for row in found["rows"] if row["together"]]
    sets = {row["name"]: " ".join(f"`{one}`" for one in row["sets"]) for row in found["rows"]}
    sets |= {"base": "", "together": ", ".join(joined)}
    for name, said in sets.items():
        if name not in measured:
            yield name, said, *[""] * 9
            continue
        own = measured[name]["summary"]
        without = measured.get(f"together without {name}")
        added = measured.get(f"together with {name}")
        rest = f"{without['summary'][wall]:.1f}" if without else ""
        rest = f"with: {added['summary'][wall]:.1f}" if added else rest
        yield (
            name,
            said,
            f"{own[wall]:.1f}",
            f"{own[wall] / base[wall]:.2f} ×",
            f"{own[spent] / base[spent]:.2f} ×",
            rest,
            f"{own['memory'] / 2**30:.2f}",
            f"{own['log_prob_gap']:.1e}" if own["log_prob_gap"] else "0",
            f"{own['gap_limit']:.1e}" if own["gap_limit"] else "",
            "yes" if own["passes"] else "**no**",
            _off_sampling(own),
        )


def profile() -> str:
    """Return where the default run spends its time."""
    path = RESULTS / "speed_profile.json"
    if not path.exists():
        return MISSING
    found = json.loads(path.read_text("utf-8"))
    kinds = ("UNet", "backward", "VAE", "text and reward", "outside networks")
    rows = [
        (name, f"{100 * part['share']:.1f} %", *(f"{100 * part.get(k, 0):.1f} %" for k in kinds))
        for name, part in sorted(found["phases"].items(), key=lambda one: -one[1]["share"])
    ]
    largest = list(found["outside_networks_of_epochs"].items())[:8]
    listed = "\n".join(f"- {100 * share:.2f} %: {name}" for name, share in largest)
    return (
        f"{table(('part of the run', 'share', *kinds), rows)}\n\n{found['samples']} samples of a "
        f"run of {found['epochs']} epochs that took {found['seconds']:.0f} seconds; columns are "
        f"shares of the part. {found['machine']}, commit {commit(found)}. "
        f"The most of what is outside the networks in epochs, by the innermost function of diffrl "
        f"and what it calls:\n\n{listed}"
    )
