"""The tables of measured results, from `benchmarks/results/`.

`default_run.json` holds `machine` (in words), `steps` (numbers of denoising steps), `real` (score
of real renders by reward) and `runs`, one per seed: `seed`, `seconds`, `peak_memory_gib`, and the
run's first and last line of metrics as `before` and `after`. `zoo.json` holds the same head and
`algorithms`: by name the scores of every seed as `before` and `after`, `seconds`, `reward_queries`.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from generators.markdown import table

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
RESULTS, ZOO = FOLDER / "default_run.json", FOLDER / "zoo.json"


def results() -> str:
    """Return the table of the default run, or that it is not measured."""
    if not RESULTS.exists():
        return "*Not measured yet.*"
    return results_table(json.loads(RESULTS.read_text("utf-8")))


def results_table(measured: Mapping[str, Any]) -> str:
    """Return before and after by number of steps, over the seeds of `runs`."""
    runs, real = measured["runs"], measured["real"]["pickscore"]
    rows = []
    for steps in measured["steps"]:
        score, accuracy = f"eval/pickscore/{steps}-step", f"eval/animal-accuracy/{steps}-step"
        gained = [share_of_gap(r["before"][score], r["after"][score], real) for r in runs]
        rows.append(
            (
                str(steps),
                *(spread([r[when][score] for r in runs]) for when in ("before", "after")),
                f"{100 * statistics.mean(gained):.0f} % (least {100 * min(gained):.0f} %)",
                *(spread([r[when][accuracy] for r in runs]) for when in ("before", "after")),
            )
        )
    head = (
        "steps",
        "PickScore before",
        "after",
        "of the gap to real",
        "accuracy % before",
        "after",
    )
    minutes = max(r["seconds"] for r in runs) / 60
    memory = max(r["peak_memory_gib"] for r in runs)
    seeds = ", ".join(str(r["seed"]) for r in runs)
    return (
        f"{table(head, rows)}\n\nMean ± standard deviation over seeds {seeds}; real renders score "
        f"{real:.1f}. The slowest run took {minutes:.1f} minutes and {memory:.1f} GiB on "
        f"{measured['machine']}."
    )


def zoo() -> str:
    """Return the table and curves of all algorithms, or that they are not measured."""
    if not ZOO.exists():
        return "*Not measured yet.*"
    measured = json.loads(ZOO.read_text("utf-8"))
    reward, real = measured["reward"], measured["real"][measured["reward"]]
    rows = [
        (f"`{name}`", *_gains(row, reward, real)) for name, row in measured["algorithms"].items()
    ]
    first = next(iter(measured["algorithms"].values()))
    steps = [key.rpartition("/")[2].removesuffix("-step") for key in _scores(first, reward)]
    columns = [f"{n} step{'s' if n != '1' else ''}" for n in steps]
    head = ("algorithm", *columns, "accuracy %", "seconds", "reward queries")
    return (
        f"{table(head, rows)}\n\n{reward} gained, mean ± standard deviation over {first['seeds']} "
        f"seeds, with the share of the gap to real renders that is closed on average; the judge's "
        f"accuracy afterwards, worst number of steps. `{measured['command']}` on "
        f"{measured['machine']}, by `benchmarks/zoo.py`.\n\n"
        f"![Reward of training pictures against samples](../images/zoo-reward-over-samples.png)\n\n"
        f"![Reward of training pictures against time](../images/zoo-reward-over-seconds.png)"
    )


def _scores(row: Mapping[str, Any], reward: str) -> list[str]:
    return [key for key in row["after"] if key.startswith(f"eval/{reward}/")]


def _gains(row: Mapping[str, Any], reward: str, real: float) -> list[str]:
    cells = []
    for key in _scores(row, reward):
        pairs = list(zip(row["before"][key], row["after"][key], strict=True))
        share = statistics.mean(share_of_gap(before, after, real) for before, after in pairs)
        cells.append(f"{spread([after - before for before, after in pairs])} ({100 * share:.0f} %)")
    right = [k for k in row["after"] if k.startswith("eval/animal-accuracy/")]
    worst = f"{min(statistics.mean(row['after'][key]) for key in right):.1f}" if right else ""
    costs = [f"{statistics.mean(row[key]):.0f}" for key in ("seconds", "reward_queries")]
    return [*cells, worst, *costs]


def share_of_gap(before: float, after: float, real: float) -> float:
    """Return how much of the way from `before` to real pictures was gone."""
    return (after - before) / (real - before)


def spread(values: list[float]) -> str:
    """Return mean ± sample standard deviation; without the latter for one value."""
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1f}"
