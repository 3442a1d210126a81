"""The paper's claims beside what was measured, from result files."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from diffrl.folder import short_commit
from generators.markdown import commit, table
from generators.results import FOLDER

PRICE = FOLDER / "paper_price.json"
MARKS = {
    "reproduced": "✓",
    "not distinguishable": "·",
    "contradicted": "✗",
    "few seeds, for": "(✓)",
    "few seeds, against": "(✗)",
    "on different machines or code": "other machines or code",
    "not run": "not run",
}
MEASURES = {"end": "in the end", "area": "on the way", "seconds": "by time"}
BEFORE = "before training"
BY_TIME = (
    "By time, only runs of one machine at one commit are put side by side. They shared its cores "
    "with each other and with other work, so that their seconds say little."
)
MODELS = ("d3po", "ddpo", "prdp-rebel", "sdpo")


def summary() -> str:
    """Return what of the tiers was run, and how many claims got which verdict."""
    tiers = {name: found for name in ("full", "quick") if (found := _measured(name))}
    parts = [f"{_run(found)}\n\n{_counts(found)}" for found in tiers.values()]
    parts += [_price()] if PRICE.exists() else []
    return "\n\n".join(parts) or "*Not measured yet.*"


def table_one() -> str:
    """Return Table I, and the verdicts on it, for each reward."""
    if not (found := _measured("full")):
        return "*Not measured yet.*"
    verdicts = [v for v in found["verdicts"] if v["place"] == "Table I"]
    parts = []
    for reward in dict.fromkeys(v["reward"] for v in verdicts):
        of_reward = [v for v in verdicts if v["reward"] == reward]
        steps = list(dict.fromkeys(n for v in of_reward for n in v["steps"]))
        parts += [f"**{reward}**", _scores(found, reward, steps), _claims(of_reward)]
    return "\n\n".join([*parts, _decided(found, verdicts)])


def _decided(measured: Mapping[str, Any], verdicts: Sequence[Mapping[str, Any]]) -> str:
    """Return how many claims of Table I are decided, and how many one seed would have decided."""
    pairs = zip(measured["verdicts"], measured["first_seed"], strict=True)
    alone = sum(said.startswith("few seeds") for v, said in pairs if v["place"] == "Table I")
    decided = [v for v in verdicts if v["said"] in ("reproduced", "contradicted")]
    between = sum("before training" not in v["text"] for v in decided)
    return (
        f"Of these {len(verdicts)} claims, the first seed alone would have decided {alone}, its "
        f"pictures resampled; over all seeds {len(decided)} are decided, and {between} of those "
        f"compare two algorithms."
    )


def by_prompt() -> str:
    """Return what each unseen prompt gained."""
    if not (found := _measured("full")):
        return "*Not measured yet.*"
    prompts = list(next(iter(found["by_prompt"].values())))
    rows = [
        (reward, name, str(len(own[prompts[0]])), *(_spread(own[p], "+") for p in prompts))
        for reward in found["published"]
        for name in MODELS
        if (own := found["by_prompt"][f"{name}-{reward}"])[prompts[0]]
    ]
    return table(("reward", "", "seeds", *prompts), rows)


def figure(place: str, *charts: str) -> str:
    """Return a figure's curves, and the verdicts on its claims."""
    if not (found := _measured("full")):
        return "*Not measured yet.*"
    drawn = ((f"{place}. {found['figures'][name]}", name) for name in charts)
    pictures = "\n".join(f"![{text}](images/paper/full/{name}.svg)" for text, name in drawn)
    verdicts = [v for v in found["verdicts"] if v["place"] == place]
    by_time = any(v["measure"] == "seconds" for v in verdicts)
    return "\n\n".join([pictures, *([BY_TIME] if by_time else []), _claims(verdicts)])


def by_seed() -> str:
    """Return the claims on which a paired test over seeds says something else than Welch's."""
    if not (found := _measured("full")):
        return "*Not measured yet.*"
    both = [v for v in found["verdicts"] if v["by_seed"]]
    others = [v for v in both if v["said_by_seed"] != v["said"]]
    rows = [
        (
            v["place"],
            v["text"] if len(v["steps"]) > 1 else f"{v['text']}, {v['reward']}",
            _steps(v["steps"][0]) if len(v["steps"]) == 1 else MEASURES[v["measure"]],
            str(v["seeds"]),
            _said(v),
            _said({"said": v["said_by_seed"], "change": v["by_seed"]}),
        )
        for v in others
    ]
    head = ("where", "claim", "", "seeds", "Welch", "paired by seed")
    return (
        f"{len(both) - len(others)} of {len(both)} verdicts are the same. The others:\n\n"
        f"{table(head, rows)}"
    )


def accuracy() -> str:
    """Return Tables II and III."""
    for tier in ("full", "quick"):
        if (found := _measured(tier)) and found["accuracy"]:
            return _accuracy(found["accuracy"], tier)
    return "*Not measured yet.*"


def _measured(tier: str) -> dict[str, Any] | None:
    path = FOLDER / f"paper_{tier}.json"
    found = json.loads(path.read_text("utf-8")) if path.exists() else {"runs": {}}
    return found if any(found["runs"].values()) else None


def _run(measured: Mapping[str, Any]) -> str:
    seeds = [len(own) for own in measured["runs"].values()]
    hours = sum(second for own in measured["runs"].values() for second in own) / 3600
    wanted = len(seeds) * measured["seeds_of_the_tier"]
    commits = ", ".join(short_commit(one) for one in measured["commits"])
    tests = " and ".join(dict.fromkeys(v["test"] for v in measured["verdicts"] if v["test"]))
    return (
        f"**The {measured['tier']} tier: {sum(seeds)} of {wanted} runs**, {hours:.1f} hours of "
        f"training by the clock on {' and '.join(measured['machines'])}, at commit {commits}, with "
        f"`{' '.join(measured['settings'])}`. Test: {tests or 'none'}. "
        f"By `python -m benchmarks.paper --tier {measured['tier']}`."
    )


def _price() -> str:
    """Return what the full tier costs."""
    found = json.loads(PRICE.read_text("utf-8"))
    hours = "; ".join(f"{name}: {value:.1f} core-hours" for name, value in found["hours"].items())
    return (
        f"**What the full tier costs today**: {hours}. From the first epochs of one seed of each "
        f"row, {found['jobs']} at a time, on {found['machine']}, commit {commit(found)}. "
        f"By `python -m benchmarks.paper.price`."
    )


def _counts(measured: Mapping[str, Any]) -> str:
    """Return how many claims of each table and figure got which verdict."""
    verdicts = measured["verdicts"]
    accuracy = [
        claim["said"]
        for predictors in measured["accuracy"].get("rewards", {}).values()
        for one in predictors.values()
        for claim in one.get("claims", {}).values()
    ]
    met = {*accuracy, *(v["said"] for v in verdicts)}
    every = [said for said in MARKS if said in met]
    rows = []
    for place in dict.fromkeys(v["place"] for v in verdicts):
        own = [v for v in verdicts if v["place"] == place]
        seeds = sorted({v["seeds"] for v in own})
        said = (str(sum(v["said"] == one for v in own)) for one in every)
        rows.append((place, " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1])))), *said))
    if accuracy:
        rows.append(("Tables II and III", "", *(str(accuracy.count(one)) for one in every)))
    return table(("where", "seeds", *every), rows)


def _scores(measured: Mapping[str, Any], reward: str, steps: Sequence[int]) -> str:
    """Return the scores of all models: mean ± standard deviation over seeds."""
    keys = [f"eval/{reward}/{n}-step" for n in steps]
    cells = {name: measured["scores"][f"{name}-{reward}"] for name in MODELS}
    run = {name: found for name, found in cells.items() if found}
    rows = [(name, [found[key]["after"] for key in keys]) for name, found in run.items()]
    if rows:  # all begin with the same weights, and are judged on the same noise
        found = next(iter(run.values()))
        rows.insert(0, (BEFORE, [found[key]["before"][:1] for key in keys]))
    published = measured["published"][reward]
    return table(
        ("", "seeds", *map(_steps, steps), "the paper, on SD-Turbo"),
        [
            (
                name,
                "" if name == BEFORE else str(len(scores[0])),
                *map(_spread, scores),
                _published(published[name]),
            )
            for name, scores in rows
        ],
    )


def _published(scores: Sequence[float]) -> str:
    """Return scores with as many digits as the paper prints."""
    return " ".join(f"{score:.3f}" if score < 10 else f"{score:.2f}" for score in scores)


def _claims(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """Return a row for each claim, and a column for each number of steps or way of measuring."""
    by_steps = len({tuple(v["steps"]) for v in verdicts}) > 1

    def column(verdict: Mapping[str, Any]) -> str:
        return _steps(verdict["steps"][0]) if by_steps else MEASURES[verdict["measure"]]

    columns = list(dict.fromkeys(map(column, verdicts)))
    rows = []
    for text in dict.fromkeys(v["text"] for v in verdicts):
        own = {column(v): v for v in verdicts if v["text"] == text}
        seeds = next(iter(own.values()))["seeds"]
        cells = (_said(own[c], seeds) if c in own else "" for c in columns)
        rows.append((text, str(seeds), *cells))
    return table(("claim", "seeds", *columns), rows)


def _said(verdict: Mapping[str, Any], seeds: int | None = None) -> str:
    """Return the mark, the difference with what interval it has, and its seeds if others."""
    mark = MARKS[verdict["said"]]
    if (change := verdict["change"]) is None:
        return mark
    other = "" if seeds in (None, verdict.get("seeds")) else f", {verdict['seeds']} seeds"
    ends = (change["low"], change["high"])
    interval = "" if None in ends else " [{:+.2f}, {:+.2f}]".format(*ends)
    return f"{mark} {change['mean']:+.2f}{interval}{other}"


def _steps(n: int) -> str:
    return f"{n} step{'s' if n > 1 else ''}"


def _spread(values: Sequence[float], sign: str = "") -> str:
    mean = f"{statistics.mean(values):{sign}.2f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2f}"


def _accuracy(found: Mapping[str, Any], tier: str) -> str:
    rows = [
        (
            f"`{reward}`",
            name,
            f"{round(one['cosine'], 3) + 0.0:.3f} ± {one['cosine_error']:.3f}",
            f"{one['l1']:.2f}",
            f"{one['l2']:.2f}",
            *(MARKS[claim["said"]] for claim in one.get("claims", {}).values()),
        )
        for reward, predictors in found["rewards"].items()
        for name, one in predictors.items()
    ]
    head = ("reward", "predictor", "cosine", "L1", "L2", "by cosine", "by L1", "by L2")
    return (
        f"{table(head, [(*row, *[''] * (len(head) - len(row))) for row in rows])}\n\n"
        f"Predicted dense rewards beside those of every step, on {found['rollouts']} trajectories "
        f"of 50 steps at the bundled model's own weights. The cosine is that of each trajectory's "
        f"rewards less their mean, with its standard error; L1 and L2 are in standard deviations "
        f"of the true ones. The marks judge the claim that the adaptive anchor is nearer than the "
        f"row's predictor. The least cosine of a clean prediction with its trajectory's first, "
        f"middle or last one is {found['least_cosine']:.2f} on average. Test: {found['test']}. "
        f"By `python -m benchmarks.paper --tier {tier}`."
    )
