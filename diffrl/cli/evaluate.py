"""What `diffrl eval` does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from diffrl import presets
from diffrl.cli.columns import columns
from diffrl.errors import SettingsError

if TYPE_CHECKING:
    from diffrl.evidence.evaluation import Cell
    from diffrl.evidence.protocol import Protocol
    from diffrl.evidence.subjects import Subject
    from diffrl.stages import Reward

NONE = "none"


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    subjects: Sequence[str]
    rewards: Sequence[str]
    prompts: Sequence[str]
    steps: str
    seeds: int
    seed: int
    preset: str | None
    model: str | None
    base: str | None
    sampler: str | None
    eta: float
    device: str
    precision: str | None
    sets: Sequence[str]
    output: Path | None


def evaluate(asked: Asked) -> None:
    """Judge models, print tables, and write what was found.

    Raises:
        DiffrlError: naming what is wrong, before weights load.
    """
    from diffrl.evidence import evaluation, protocol, subjects
    from diffrl.trainer.session import quiet

    preset = asked.preset or _preset(asked.subjects)
    content = presets.read(preset)
    model = asked.model or content["model"]["ref"]
    judged = [subjects.subject(text, model) for text in asked.subjects]
    base = _base(asked.base, judged)
    everyone = ([base] if base else []) + judged
    subjects.refuse_twins(everyone)
    question = _protocol(asked, judged, content["model"])
    prompts = [p for part in question.prompts.values() for p in part]
    precision = asked.precision or str(content["model"].get("precision", "fp32"))
    device = _device(asked.device, precision)
    output = asked.output or Path("evaluations") / f"{datetime.now():%Y-%m-%d-%H%M%S}.json"
    quiet()
    rewards, left_out = protocol.open_rewards(
        asked.rewards, preset, asked.sets, _own(judged), prompts, device
    )
    embed, why = protocol.embedder(preset, device)
    for line in [*left_out, *why]:
        typer.echo(f"left out: {line}", err=True)
    judges = evaluation.Judges(
        rewards, embed and embed.image_embedding, lambda line: typer.echo(line, err=True)
    )
    cells = evaluation.evaluate(judged, base, question, judges, device, precision)
    evaluation.save(output, question, everyone, cells)
    for one in judged:
        if one.folder is not None:
            own = [c for c in cells if c.subject in (one.name, base and base.name)]
            evaluation.save(one.folder / evaluation.FILE, question, everyone, own, one.name)
    typer.echo("\n".join(table(question, cells, [r.name for r in rewards])))
    typer.echo(f"\nevery picture's scores: {output}")


def _preset(texts: Sequence[str]) -> str:
    """Return the preset of the first run that is judged, or the usual one."""
    from diffrl.evidence.subjects import subject

    for text in texts:
        settings = subject(text, "bundled:pipeline").run
        if settings is not None:
            return settings.preset
    return presets.names()[0]


def _base(given: str | None, judged: Sequence[Subject]) -> Subject | None:
    """Return what the others are compared with: the model that the first adapter belongs to."""
    from diffrl.evidence.subjects import Subject, subject

    if given == NONE:
        return None
    if given is not None:
        return subject(given if "=" in given else f"base={given}", given)
    models = list(dict.fromkeys(s.model for s in judged if s.weights is not None))
    return Subject("base", models[0], models[0]) if models else None


def _own(judged: Sequence[Subject]) -> list[Reward]:
    """Return the rewards of the first judged run, as that run set them."""
    for one in judged:
        if one.run is not None:
            return [*(w.reward for w in one.run.rewards), *one.run.watched]
    return []


def _protocol(asked: Asked, judged: Sequence[Subject], model: dict[str, object]) -> Protocol:
    from diffrl.evidence.protocol import PROMPTS, Protocol, sampler_called
    from diffrl.trainer.session import open_prompts

    runs = [s.run for s in judged if s.run is not None]
    sampler = asked.sampler or (runs[0].recipe.sampler.name if runs else "ddim")
    sampler_called(sampler)
    size = runs[0].model.size if runs else model.get("size")
    guidance = runs[0].model.guidance if runs else model.get("guidance", 1.0)
    return Protocol(
        prompts={ref: open_prompts(ref) for ref in (asked.prompts or PROMPTS)},
        steps=_steps(asked.steps),
        seeds=asked.seeds,
        seed=asked.seed,
        sampler=sampler,
        eta=asked.eta,
        size=None if size is None else int(str(size)),
        guidance=float(str(guidance)),
    )


def _steps(text: str) -> tuple[int, ...]:
    """Return numbers of steps written with commas.

    Raises:
        SettingsError: if one is no whole number from 1 to 1000.
    """
    parts = [part.strip() for part in text.split(",")]
    wrong = [p for p in parts if not (p.isdigit() and 1 <= int(p) <= 1000)]
    if wrong:
        raise SettingsError(
            [f"--steps {text}: {wrong[0]!r} is no number of steps from 1 to 1000; write 1,2,4"]
        )
    return tuple(dict.fromkeys(map(int, parts)))


def _device(name: str, precision: str) -> str:
    from diffrl.trainer.ranks import check_device

    if precision not in ("fp32", "bf16", "fp16"):
        raise SettingsError([f"--precision {precision}: expected fp32, bf16 or fp16"])
    if found := check_device(name, precision):
        raise SettingsError([f.replace("model.device =", "--device") for f in found])
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def table(protocol: Protocol, cells: Sequence[Cell], rewards: Sequence[str]) -> Iterator[str]:
    """Yield, for each set of prompts, a table of rewards and one of measures."""
    for name, prompts in protocol.prompts.items():
        here = sorted((c for c in cells if c.prompts == name), key=lambda c: c.steps)
        measures = [n for c in here for n in c.found if n not in rewards]
        yield ""
        yield (
            f"{name}: {len(prompts)} prompts, pictures of each: {protocol.seeds}; ± half of the "
            f"95 % interval over {'prompts' if len(prompts) >= 8 else 'pictures'}; "
            f"in brackets: share of pictures better than the base model's"
        )
        for wanted in (list(rewards), list(dict.fromkeys(measures))):
            if wanted:
                head = ["steps", "model", *wanted]
                rows = [[str(c.steps), c.subject, *(_entry(c, w) for w in wanted)] for c in here]
                yield ""
                yield from columns([head, *rows])


def _entry(cell: Cell, name: str) -> str:
    if name not in cell.found:
        return "–"
    one = cell.found[name]
    text = f"{one.mean:.2f} ±{(one.high - one.low) / 2:.2f}"
    return f"{text} ({cell.wins[name].mean:.0f} %)" if name in cell.wins else text
