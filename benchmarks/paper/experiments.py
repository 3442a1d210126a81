"""What the paper claims, and the runs that can tell. SDPO, arXiv:2411.11727v2."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from benchmarks.paper.cells import Cell
from benchmarks.paper.published import BEFORE, TABLE_ONE

REWARDS = ("imagereward", "aesthetic", "hpsv2", "pickscore")
BASELINES = ("d3po", "ddpo", "prdp-rebel")
STEPS = (1, 2, 4, 8)
MEASURES = ("end", "area")
"""Curves are compared where they end and on the way, since the paper shows curves."""

LONG = ("sampler.steps=8",)
"""Of the ablations: on the preset's two and four steps, three queries are almost all steps."""


@dataclass(frozen=True)
class Claim:
    """One thing the paper says: `better` is above `worse`.

    Args:
        place: table or figure.
        text: what is claimed, in our words, but for reward, steps and measure.
        better: the cell that should be above.
        worse: the other; None: the model before training.
        falls: whether the model before training is the better one, and `better` below it.
        steps: numbers of denoising steps whose scores count, averaged.
        measure: `end` for the last evaluation, `area` for the mean over all of them but the one
            before training, `seconds` for what both had when the faster run ended.
    """

    place: str
    text: str
    better: Cell
    worse: Cell | None
    steps: tuple[int, ...] = STEPS
    measure: str = "end"
    falls: bool = False


def table_one() -> list[Claim]:
    """Return the claims of Table I, on the four unseen prompts: what its figures say.

    There, baselines on PickScore fall below the model before training in one and two steps.
    """
    found = []
    for reward, (place, steps) in itertools.product(REWARDS, enumerate(STEPS)):
        sdpo = unseen("sdpo", reward)
        for algo in BASELINES:
            text = f"sdpo above {algo}"
            found.append(Claim("Table I", text, sdpo, unseen(algo, reward), (steps,)))
        for algo in (*BASELINES, "sdpo"):
            falls = TABLE_ONE[reward][algo][place] < TABLE_ONE[reward][BEFORE][place]
            names = (algo, "the model before training")
            text = "{} above {}".format(*(names[::-1] if falls else names))
            cell = unseen(algo, reward)
            found.append(Claim("Table I", text, cell, None, (steps,), falls=falls))
    return found


def unseen(algo: str, reward: str) -> Cell:
    """Return training on the animals, judged on the unseen prompts."""
    return Cell(f"{algo}-{reward}", algo, reward, ("eval.prompts=unseen",))


def figure_four() -> list[Claim]:
    """Return the claims of sample efficiency: the mean over the evaluations on the way."""
    return [
        Claim(
            "Fig. 4",
            f"sdpo needs fewer samples than {algo}",
            unseen("sdpo", "aesthetic"),
            unseen(algo, "aesthetic"),
            (n,),
            "area",
        )
        for n in STEPS
        for algo in BASELINES
    ]


BASE = Cell("long", "sdpo", sets=LONG)


def varied(name: str, *sets: str) -> Cell:
    """Return SDPO on eight steps with other settings."""
    return replace(BASE, name=f"long-{name}", sets=(*LONG, *sets))


PREDICTORS = {
    "a random anchor": varied("random", "anchor=random"),
    "a fixed anchor": varied("fixed", "anchor=fixed"),
    "two queries, similarity": varied("two", "query=first-last"),
    "two queries, interpolation": varied("linear", "query=first-last", "spread=linear"),
    "one query, copied": varied("copy", "query=last"),
    "every step queried": varied("every", "query=every"),
}
GAMMAS = {f"γ = {g}": varied(f"gamma-{g}", f"gamma={g}") for g in ("0.9", "1", "none")}


def figure_five() -> list[Claim]:
    """Return the claims on reward predictors and γ."""
    by_samples = [
        Claim("Fig. 5", f"the adaptive anchor above {name}", BASE, cell, measure=measure)
        for name, cell in PREDICTORS.items()
        for measure in MEASURES
    ]
    every = PREDICTORS["every step queried"]
    by_time = [
        Claim(
            "Fig. 5",
            "the adaptive anchor above every step queried",
            BASE,
            every,
            measure="seconds",
        )
    ]
    gamma = [
        Claim("Fig. 5", f"γ = 0.99 above {name}", BASE, cell, measure=measure)
        for name, cell in GAMMAS.items()
        for measure in MEASURES
    ]
    return by_samples + by_time + gamma


NORMS = {
    "per prompt": varied("per-prompt", "per=prompt"),
    "globally": varied("per-batch", "per=batch"),
}
DECAYS = {
    "0.9": varied("decay-0.9", "decay=0.9"),
    "1": varied("decay-1", "decay=1"),
    "reversed": varied("reverse", "reverse=true"),
}
ORDERS = {
    "accumulated steps": varied("accumulated", "order=steps-accumulated"),
    "ordered steps": varied("in-order", "order=steps-in-order"),
}


def figure_six() -> list[Claim]:
    """Return the claims on normalisation, λ and the order of updates."""
    others = {
        "normalising per prompt and step": NORMS,
        "λ = 0.99": DECAYS,
        "shuffled": ORDERS,
    }
    return [
        Claim("Fig. 6", f"{ours} above {name}", BASE, cell, measure=measure)
        for ours, cells in others.items()
        for name, cell in cells.items()
        for measure in MEASURES
    ]


MIXED = ("lengths=[1, 2, 4, 8]", "skip_last=0")
SDPO_MIXED = Cell("sdpo-mixed", "sdpo", sets=MIXED)
DDPO_OF = {
    "one step": Cell("ddpo-1", "ddpo", sets=("sampler.steps=1", "skip_last=0")),
    "two steps": Cell("ddpo-2", "ddpo", sets=("sampler.steps=2", "skip_last=0")),
    "mixed steps": Cell("ddpo-mixed", "ddpo", sets=MIXED),
}


def figure_seven() -> list[Claim]:
    """Return the claims on training with few and with mixed steps: every step is trained."""
    return [
        Claim("Fig. 7", f"sdpo on mixed steps above ddpo on {name}", SDPO_MIXED, cell, measure=m)
        for name, cell in DDPO_OF.items()
        for m in MEASURES
    ]


LCM = {
    algo: Cell(f"lcm-{algo}", algo, sets=("sampler=lcm", "sampler.steps=4"))
    for algo in ("sdpo", "ddpo", "rebel")
}


def figure_eight() -> list[Claim]:
    """Return the claims on a model that is sampled as a latent consistency model is."""
    sdpo, *baselines = LCM.values()
    against = [
        Claim("Fig. 8", f"sdpo above {cell.algo}", sdpo, cell, measure=measure)
        for cell in baselines
        for measure in MEASURES
    ]
    return [*against, Claim("Fig. 8", "sdpo above the model before training", sdpo, None)]


SLOWER = Cell("sdpo-mixed-slow", "sdpo", sets=(*MIXED, "optimizer.lr=4.5e-4"))
"""SDPO on mixed steps with the learning rate that the preset gives DDPO, little more than half."""

EARLY = {
    "0.9": DECAYS["0.9"],
    "0.5": varied("decay-0.5", "decay=0.5"),
    "0.9, reversed": varied("reverse-0.9", "decay=0.9", "reverse=true"),
}


def looked_into() -> list[Claim]:
    """Return claims of ours, that would explain what Figs. 6 and 7 find against the paper.

    Those of λ follow if training is faster where a trajectory's first steps weigh more than its
    last, as they do with a smaller λ, and the other way round with λ reversed. Those of mixed
    steps follow if SDPO loses there because of its larger learning rate.
    """
    pairs = [
        ("λ = 0.5 above 0.99", EARLY["0.5"], BASE),
        ("λ = 0.99 above 0.9 reversed", BASE, EARLY["0.9, reversed"]),
        ("λ = 0.9 above 0.9 reversed", EARLY["0.9"], EARLY["0.9, reversed"]),
        ("sdpo on mixed steps at ddpo's learning rate above at its own", SLOWER, SDPO_MIXED),
        ("ddpo on mixed steps above sdpo at the same rate", DDPO_OF["mixed steps"], SLOWER),
    ]
    return [
        Claim("Looked into", text, better, worse, measure=measure)
        for text, better, worse in pairs
        for measure in MEASURES
    ]


PARTS = {
    "table-1": table_one,
    "fig-4": figure_four,
    "fig-5": figure_five,
    "fig-6": figure_six,
    "fig-7": figure_seven,
    "fig-8": figure_eight,
    "looked-into": looked_into,
}


def cells_of(claims: list[Claim]) -> list[Cell]:
    """Return the runs that claims need, each once, in the order of the claims."""
    every = [cell for c in claims for cell in (c.better, c.worse) if cell is not None]
    return list(dict.fromkeys(every))
