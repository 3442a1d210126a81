"""What the paper claims, and the runs that can tell. SDPO, arXiv:2411.11727v2."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.paper.cells import Cell

REWARDS = ("imagereward", "aesthetic", "hpsv2", "pickscore")
BASELINES = ("d3po", "ddpo", "prdp-rebel")
STEPS = (1, 2, 4, 8)
LONG = ("sampler.steps=8",)
"""Of the ablations: on the preset's two and four steps, three queries are almost all steps."""


@dataclass(frozen=True)
class Claim:
    """One thing the paper says: `better` ends above `worse`.

    Args:
        place: table or figure.
        text: what is claimed, in our words.
        better: the cell that should be above.
        worse: the other; None: the model before training.
        steps: numbers of denoising steps whose scores count, averaged.
        measure: `end` for the last evaluation, `area` for the mean over all of them, `seconds` for
            what both had when the faster run ended.
    """

    place: str
    text: str
    better: Cell
    worse: Cell | None
    steps: tuple[int, ...] = STEPS
    measure: str = "end"


def table_one() -> list[Claim]:
    """Return the claims of Table I, on the four unseen prompts."""
    found = []
    for reward in REWARDS:
        sdpo = unseen("sdpo", reward)
        for steps in STEPS:
            where = f"{reward}, {steps} step{'s' if steps > 1 else ''}"
            for algo in BASELINES:
                text = f"{where}: SDPO above {algo}"
                found.append(Claim("Table I", text, sdpo, unseen(algo, reward), (steps,)))
            for algo in (*BASELINES, "sdpo"):
                text = f"{where}: {algo} above the model before training"
                found.append(Claim("Table I", text, unseen(algo, reward), None, (steps,)))
    return found


def unseen(algo: str, reward: str) -> Cell:
    """Return training on the animals, judged on the unseen prompts."""
    return Cell(f"{algo}-{reward}", algo, reward, ("eval.prompts=unseen",))


def figure_four() -> list[Claim]:
    """Return the claims of sample efficiency: the mean over the evaluations on the way."""
    return [
        Claim(
            "Fig. 4",
            f"aesthetic, {n} step{'s' if n > 1 else ''}: SDPO needs fewer samples than {algo}",
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
        Claim("Fig. 5", f"the adaptive anchor above {name}, by samples", BASE, cell)
        for name, cell in PREDICTORS.items()
        if name != "every step queried"
    ]
    every = PREDICTORS["every step queried"]
    by_time = [
        Claim(
            "Fig. 5",
            "the adaptive anchor above every step queried, by time",
            BASE,
            every,
            measure="seconds",
        )
    ]
    gamma = [Claim("Fig. 5", f"γ = 0.99 above {name}", BASE, cell) for name, cell in GAMMAS.items()]
    return by_samples + by_time + gamma


def figure_six() -> list[Claim]:
    """Return the claims on normalisation, λ and the order of updates."""
    others = {
        "normalising per prompt and step above per prompt": varied("per-prompt", "per=prompt"),
        "normalising per prompt and step above globally": varied("per-batch", "per=batch"),
        "λ = 0.99 above 0.9": varied("decay-0.9", "decay=0.9"),
        "λ = 0.99 above 1": varied("decay-1", "decay=1"),
        "λ = 0.99 above reversed": varied("reverse", "reverse=true"),
        "shuffled above accumulated steps": varied("accumulated", "order=steps-accumulated"),
        "shuffled above ordered steps": varied("in-order", "order=steps-in-order"),
    }
    return [Claim("Fig. 6", text, BASE, cell) for text, cell in others.items()]


def figure_seven() -> list[Claim]:
    """Return the claims on training with few and with mixed steps: every step is trained."""
    mixed = ("lengths=[1, 2, 4, 8]", "skip_last=0")
    sdpo = Cell("sdpo-mixed", "sdpo", sets=mixed)
    others = {
        "one step": Cell("ddpo-1", "ddpo", sets=("sampler.steps=1", "skip_last=0")),
        "two steps": Cell("ddpo-2", "ddpo", sets=("sampler.steps=2", "skip_last=0")),
        "mixed steps": Cell("ddpo-mixed", "ddpo", sets=mixed),
    }
    return [
        Claim("Fig. 7", f"SDPO on mixed steps above DDPO on {name}", sdpo, cell)
        for name, cell in others.items()
    ]


def figure_eight() -> list[Claim]:
    """Return the claims on a model that is sampled as a latent consistency model is."""
    lcm = ("sampler=lcm", "sampler.steps=4")
    sdpo = Cell("lcm-sdpo", "sdpo", sets=lcm)
    baselines = [Cell(f"lcm-{algo}", algo, sets=lcm) for algo in ("ddpo", "rebel")]
    against = [
        Claim("Fig. 8", f"LCM sampling: SDPO above {cell.algo}", sdpo, cell) for cell in baselines
    ]
    above = Claim("Fig. 8", "LCM sampling: SDPO above the model before training", sdpo, None)
    return [*against, above]


PARTS = {
    "table-1": table_one,
    "fig-4": figure_four,
    "fig-5": figure_five,
    "fig-6": figure_six,
    "fig-7": figure_seven,
    "fig-8": figure_eight,
}


def cells_of(claims: list[Claim]) -> list[Cell]:
    """Return the runs that claims need, each once, in the order of the claims."""
    every = [cell for c in claims for cell in (c.better, c.worse) if cell is not None]
    return list(dict.fromkeys(every))
