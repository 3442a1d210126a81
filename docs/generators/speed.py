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
GAPS = {"log_prob_gap": "log-prob gap", "sampling_gap": "… of sampling"}
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
    theirs, ours = (found["summary"][way] for way in ("published", "diffrl"))
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
    for kind, said in GAPS.items():
        gaps = [way.get(kind) for way in (theirs, ours)]
        if any(gap is not None for gap in gaps):
            yield said, *("" if gap is None else f"{gap:.1e}" if gap else "0" for gap in gaps), ""


def _about(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield where it was measured, and that both did the same."""
    steps = " and ".join(str(n) for n in found["steps"])
    repeats = len(found["repeats"]["diffrl"]) // len(found["steps"])
    most = max(found["summary"][way]["spread"] for way in ("published", "diffrl"))
    turns = " in turn, as the preset has them" if len(found["steps"]) > 1 else ""
    yield f"Epochs of {found['trajectories']} trajectories with {steps} steps{turns};"
    yield f"medians of {repeats} of each, the ways taking turns, after one to warm up;"
    yield f"the longest was at most {100 * most:.0f} % of the median above the shortest."
    yield f"{found['machine']}, {machine_parts(found)}, load"
    yield f"{found['load_before']:.1f} before; a matrix product reaches"
    yield f"{_rates(found)};"
    yield f"commit {commit(found)}, seed {found['seed']}."
    if found["sets"]:
        yield "On top of the preset: " + " ".join(f"`{one}`" for one in found["sets"]) + "."
    for work in found["work"]:
        theirs, ours = work["published"], work["diffrl"]
        yield (
            f"With {work['steps']} steps each way made {ours['optimizer_steps']} optimizer "
            f"step{'s' if ours['optimizer_steps'] > 1 else ''} from {theirs['unet/grad']} rows, "
            f"and sampled {theirs['unet/no-grad']}."
        )
        if ours["unet/grad"] < theirs["unet/grad"]:
            yield (
                f"Of these diffrl predicted {ours['unet/grad']} and {ours['unet/no-grad']}: "
                f"those that differ."
            )
        yield (
            f"Of {theirs['reward']} queries diffrl scored the {ours['reward']} that are different "
            f"pictures."
        )


def _rates(found: Mapping[str, Any]) -> str:
    """Return the rate of a matrix product in each precision, as the shares of it are taken."""
    rates: dict[str, float] = {}
    for one in found["about"].values():
        rate = one["matmul_flops_per_second"]
        rates[one["precision"]] = max(rate, rates.get(one["precision"], 0))
    return " and ".join(f"{rate / 1e9:,.0f} GFLOP/s in {name}" for name, rate in rates.items())


def machine_parts(found: Mapping[str, Any]) -> str:
    """Return threads, and GPUs where there are some."""
    own = found["environment"]["machine"]
    return ", ".join([f"{own['threads']} threads", *own.get("gpus", [])])


def _memories(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what of memory was measured, and its name in the table."""
    if "reserved" in theirs["memory"] and "reserved" in ours["memory"]:
        yield "reserved", "memory that torch held, GiB"
        yield "peak", "… in tensors at once, but for those of recorded graphs"
        return
    yield "peak", "peak memory, GiB"
    yield "above", "… above the loaded models, GiB"


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
