"""The paper's claims beside what was measured, from result files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from generators.markdown import short, table
from generators.results import FOLDER

SAID = (
    "reproduced",
    "not distinguishable",
    "contradicted",
    "one seed, for",
    "one seed, against",
    "on different machines",
    "not run",
)


def paper() -> str:
    """Return what of the full tier was run, and the quick one until that is complete."""
    parts: list[str] = []
    for tier in ("full", "quick"):
        path = FOLDER / f"paper_{tier}.json"
        measured = json.loads(path.read_text("utf-8")) if path.exists() else {"runs": {}}
        if any(measured["runs"].values()):
            parts += [f"### The {tier} tier", _run(measured), _summary(measured)]
            parts += [_verdicts(measured)]
            if _is_complete(measured):
                break
    return "\n\n".join(parts) or "*Not measured yet.*"


def _is_complete(measured: Mapping[str, Any]) -> bool:
    return all(len(own) == measured["seeds_of_the_tier"] for own in measured["runs"].values())


def accuracy() -> str:
    """Return Tables II and III."""
    for tier in ("full", "quick"):
        path = FOLDER / f"paper_{tier}.json"
        if path.exists() and (found := json.loads(path.read_text("utf-8"))["accuracy"]):
            return _accuracy(found)
    return "*Not measured yet.*"


def _run(measured: Mapping[str, Any]) -> str:
    seeds = [len(own) for own in measured["runs"].values()]
    hours = sum(second for own in measured["runs"].values() for second in own) / 3600
    wanted = len(seeds) * measured["seeds_of_the_tier"]
    commits = ", ".join(short(one) for one in measured["commits"])
    return (
        f"**{sum(seeds)} of {wanted} runs**, {hours:.1f} hours of training by the clock "
        f"on {' and '.join(measured['machines'])}, at commit {commits}, with "
        f"`{' '.join(measured['settings'])}`."
    )


def _summary(measured: Mapping[str, Any]) -> str:
    verdicts = measured["verdicts"]
    rows = []
    for place in dict.fromkeys(v["place"] for v in verdicts):
        said = [v["said"] for v in verdicts if v["place"] == place]
        rows.append((place, *(str(said.count(one)) for one in SAID)))
    return table(("where", *SAID), rows)


def _verdicts(measured: Mapping[str, Any]) -> str:
    rows = []
    for v in measured["verdicts"]:
        if (change := v["change"]) is None:
            continue
        figures = f"{change['mean']:+.2f} [{change['low']:+.2f}, {change['high']:+.2f}]"
        rows.append((v["place"], v["text"], figures, v["said"], str(v["seeds"])))
    tests = ", ".join(dict.fromkeys(v["test"] for v in measured["verdicts"] if v["test"]))
    return (
        f"{table(('where', 'claim', 'difference, 95 % interval', 'verdict', 'seeds'), rows)}\n\n"
        f"Test: {tests or 'none'}. By `python -m benchmarks.paper --tier {measured['tier']}`."
    )


def _accuracy(found: Mapping[str, Any]) -> str:
    rows = [
        (
            f"`{reward}`",
            name,
            f"{one['cosine']:.3f} ± {one['cosine_error']:.3f}",
            f"{one['l1']:.2f}",
            f"{one['l2']:.2f}",
        )
        for reward, predictors in found["rewards"].items()
        for name, one in predictors.items()
    ]
    return (
        f"{table(('reward', 'predictor', 'cosine', 'L1', 'L2'), rows)}\n\n"
        f"Predicted dense rewards beside those of every step, on {found['rollouts']} trajectories "
        f"of 50 steps at the bundled model's own weights. The cosine is that of each trajectory's "
        f"rewards less their mean, with its standard error; L1 and L2 are in standard deviations "
        f"of the true ones. The least cosine of a clean prediction with its trajectory's first, "
        f"middle or last one is {found['least_cosine']:.2f} on average. "
        f"By `python -m benchmarks.paper`."
    )
