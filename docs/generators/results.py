"""The tables of measured results, from `benchmarks/results/`.

`default_run.json` holds `machine` (in words), `steps` (numbers of denoising steps), `real` (score
of real renders by reward) and `runs`, one per seed: `seed`, `seconds`, `peak_memory_gib`, and the
run's first and last line of metrics as `before` and `after`. `zoo.json` holds the same head and
`algorithms`: by name the scores of every seed as `before` and `after`, `seconds`, `reward_queries`;
`sdpo_reward.json` likewise. `sdpo_signal.json` holds, by number of steps, which weights and how
many minibatches were measured and, by step and variant, the norm of a minibatch's gradient, its
signal-to-noise ratio and that ratio's standard error.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from generators.markdown import table

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks" / "results"
WEIGHTS = ROOT / "diffrl" / "emoji" / "weights" / "SHA256SUMS"
RESULTS, ZOO = FOLDER / "default_run.json", FOLDER / "zoo.json"
SIGNAL, TERMINAL = FOLDER / "sdpo_signal.json", FOLDER / "sdpo_reward.json"
SPEED = FOLDER / "reward_speed.json"
LAST_STEP = FOLDER / "sdpo_last_step.json"
PRECISION = FOLDER / "reward_precision.json"
FORMER = "† Of the bundled model before its last rebuild, whose pictures were softer. "


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
        f"{table(head, rows)}\n\nMean ± standard deviation over seeds {seeds}, *least* that of the "
        f"worst of them; real renders score {real:.1f}. The slowest run took {minutes:.1f} minutes "
        f"and {memory:.1f} GiB on {measured['machine']}."
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
    return (
        f"{_gains_table('algorithm', rows, measured)}\n\n{_gains_note(measured)} "
        f"`{measured['command']}` on {measured['machine']}, {_at_once(measured)}, by "
        f"`benchmarks/zoo.py`.\n\n"
        f"![Reward of training pictures against samples](../images/zoo-reward-over-samples.png)\n\n"
        f"![Reward of training pictures against time](../images/zoo-reward-over-seconds.png)"
    )


def terminal() -> str:
    """Return SDPO with its dense reward beside SDPO with a terminal one."""
    if not (TERMINAL.exists() and ZOO.exists()):
        return "*Not measured yet.*"
    dense, plain, last = (json.loads(p.read_text("utf-8")) for p in (ZOO, TERMINAL, LAST_STEP))
    if any(other["real"] != dense["real"] for other in (plain, last)):
        raise SystemExit("dense and terminal rewards: of different models; measure them anew")
    reward, real = dense["reward"], dense["real"][dense["reward"]]
    rows = [
        ("dense, three queries", *_gains(dense["algorithms"]["sdpo"], reward, real)),
        ("terminal, one query", *_gains(plain["algorithms"]["terminal"], reward, real)),
        ("dense, last step trained, too", *_gains(last["algorithms"]["0"], reward, real)),
    ]
    return (
        f"{_gains_table('reward of SDPO', rows, dense)}\n\n{_gains_note(dense)} By "
        f"`benchmarks/zoo.py`, `benchmarks/sdpo_reward.py` and `benchmarks/sdpo_last_step.py`; "
        f"seconds are not comparable: the machine was shared."
    )


def signal() -> str:
    """Return the signal-to-noise ratios of single steps' gradients."""
    if not SIGNAL.exists():
        return "*Not measured yet.*"
    lengths = json.loads(SIGNAL.read_text("utf-8"))
    today = sha256(WEIGHTS.read_bytes()).hexdigest()[:16]
    rows = [
        (
            length if measured["weights"] == today else f"{length} †",
            str(int(step) + 1),
            f"{variants['sdpo']['norm']:.1e}",
            *(
                f"{round(1e3 * v['snr'])} ± {round(1e3 * v['snr_error'])}"
                for v in variants.values()
            ),
        )
        for length, measured in lengths.items()
        for step, variants in measured["steps"].items()
    ]
    one = next(iter(lengths.values()))
    counts = " or ".join(sorted({str(measured["minibatches"]) for measured in lengths.values()}))
    names = [f"`{name}`" for name in next(iter(one["steps"].values()))]
    former = any(measured["weights"] != today for measured in lengths.values())
    return (
        f"{table(('T', 'step', 'norm', *names), rows)}\n\nSignal-to-noise ratio in power × 1000, ± "
        f"standard error, of the gradient of {one['pairs_a_minibatch']} pairs at one step, "
        f"over {counts} minibatches at the bundled model's own weights; the norm "
        f"is that of `sdpo`. {FORMER if former else ''}By `benchmarks/sdpo_signal.py`."
    )


def reward_speed() -> str:
    """Return pictures per second of the rewards at their real size."""
    if not SPEED.exists():
        return "*Not measured yet.*"
    measured = json.loads(SPEED.read_text("utf-8"))
    rows = [
        (
            f"`{name}`",
            *(f"{r[f'{way}_pictures_per_second']:.2f}" for way in ("published", "fp32", "bf16")),
            f"{r['fp32_over_published']:.1f} ×",
            f"{r['bf16_over_published']:.1f} ×",
            f"{r['bf16_moves_scores_by']:.1e}",
        )
        for name, r in measured["rewards"].items()
    ]
    head = (
        "reward",
        "published",
        "fp32",
        "bf16",
        "fp32 gains",
        "bf16 gains",
        "bf16 moves scores by",
    )
    return (
        f"{table(head, rows)}\n\nPictures of {measured['size']} pixels a second, random weights at "
        f"real size, medians of {measured['rounds']} rounds of {measured['pictures']} pictures on "
        f"{measured['machine']}. By `benchmarks/reward_speed.py`."
    )


def reward_precision() -> str:
    """Return how far lower precision moves the bundled rewards."""
    measured = json.loads(PRECISION.read_text("utf-8"))
    rows = [
        (
            f"`{name}`",
            *(f"{100 * row[p]['noise_over_spread']:.1f} %" for p in ("fp16", "bf16")),
            *(f"{100 * row[p]['pairs_swapped']:.1f} %" for p in ("fp16", "bf16")),
        )
        for name, row in measured["rewards"].items()
    ]
    head = ("bundled reward", "fp16: shift", "bf16: shift", "fp16: swapped", "bf16: swapped")
    return (
        f"{table(head, rows)}\n\nBeside fp32, over {measured['pictures']} pictures that the "
        f"bundled model drew in {measured['steps']} steps, {measured['each']} of each prompt: root "
        f"mean square of what moves the pictures of one prompt against each other, in standard "
        f"deviations of those; and the share of their pairs that change places. By "
        f"`benchmarks/reward_precision.py`."
    )


def _gains_table(what: str, rows: list[tuple[str, ...]], measured: Mapping[str, Any]) -> str:
    first = next(iter(measured["algorithms"].values()))
    found = _scores(first, measured["reward"])
    steps = [key.rpartition("/")[2].removesuffix("-step") for key in found]
    columns = [f"{n} step{'s' if n != '1' else ''}" for n in steps]
    return table((what, *columns, "accuracy %", "seconds", "reward queries"), rows)


def _gains_note(measured: Mapping[str, Any]) -> str:
    first = next(iter(measured["algorithms"].values()))
    return (
        f"{measured['reward']} gained, mean ± standard deviation over {first['seeds']} seeds, with "
        f"the share of the gap to real renders that is closed on average; the judge's accuracy "
        f"afterwards, worst number of steps."
    )


def _at_once(measured: Mapping[str, Any]) -> str:
    jobs = measured.get("jobs", 1)
    return (
        "one run at a time" if jobs == 1 else f"{jobs} runs at a time, each with its share of them"
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
