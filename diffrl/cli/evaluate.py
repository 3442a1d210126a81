"""What `diffrl eval` does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from diffrl import presets
from diffrl.cli.columns import columns
from diffrl.errors import PromptsError, RewardError, SettingsError
from diffrl.figures import short
from diffrl.folder import EVALUATION, check_file

if TYPE_CHECKING:
    from diffrl.evidence.evaluation import Cell
    from diffrl.evidence.protocol import Protocol
    from diffrl.evidence.subjects import Subject
    from diffrl.settings import Settings

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
    eta: float | None
    device: str
    precision: str | None
    sets: Sequence[str]
    output: Path | None


def evaluate(asked: Asked) -> None:
    """Judge models, print tables, and write what was found.

    Raises:
        DiffrlError: naming what is wrong; of the command line, before weights load. Models that
            are finished then are shown and kept.
    """
    from diffrl.evidence import evaluation, files, judges, sharing, subjects
    from diffrl.trainer.session import quiet

    preset = asked.preset or _preset(asked.subjects)
    content = presets.read(preset)
    model = asked.model or content["model"]["ref"]
    judged = [subjects.subject(text, model) for text in asked.subjects]
    base = _base(asked.base, judged, model)
    everyone = ([base] if base else []) + judged
    subjects.refuse_twins(everyone)
    runs = [s.run for s in judged if s.run is not None]
    device, precision = _device(asked, runs, content["model"])
    question = _protocol(asked, runs, content["model"], precision)
    usual = Path("evaluations") / f"{datetime.now():%Y-%m-%d-%H%M%S}-{os.getpid()}.json"
    output = asked.output or usual  # of several that begin in one second, each has its own
    check_file(output)
    quiet()
    shared = sharing.shared_rewards(judged)
    own = [reward for _, reward in shared.values()]
    rewards, left_out = judges.open_rewards(
        asked.rewards, preset, asked.sets, own, question.prompts, device
    )
    embed, why = judges.embedder(preset, device)
    for line in [*left_out, *why]:
        typer.echo(f"left out: {line}", err=True)
    given = {"sampler": asked.sampler, "precision": asked.precision, "eta": asked.eta}
    alike = sharing.set_otherwise(judged, shared, {r.scorer.name for r in rewards})
    for line in [*alike, *sharing.drawn_otherwise(judged, asdict(question), given)]:
        typer.echo(f"judged alike: {line}", err=True)
    looking = judges.Judges(
        rewards, embed and embed.image_embedding, lambda line: typer.echo(line, err=True)
    )
    cells: list[Cell] = []
    try:
        for own in evaluation.evaluate(judged, base, question, looking, device):
            cells += own
            files.save(output, question, everyone, rewards, cells)
    finally:  # what is finished is shown and kept, whatever ended the rest
        if cells:
            typer.echo("\n".join(table(question, cells, [r.scorer.name for r in rewards])))
            typer.echo(f"\nevery picture's scores: {output}")
        for one in judged:
            mine = [c for c in cells if c.subject in (one.name, base and base.name)]
            if one.newest and one.name in {c.subject for c in mine}:
                save = partial(files.save, protocol=question, subjects=everyone, rewards=rewards)
                _keep(one, partial(save, cells=mine, own=one.name))
    if looking.failures:
        raise RewardError("\n".join(looking.failures))


def _keep(one: Subject, save: Callable[[Path], None]) -> None:
    """Leave a run its own part, if its folder takes it."""
    assert one.folder is not None
    try:
        save(one.folder / EVALUATION)
    except OSError as error:
        typer.echo(f"not kept in {one.folder}: {error.strerror or error}", err=True)


def _preset(texts: Sequence[str]) -> str:
    """Return the preset of the first run that is judged, or the usual one."""
    from diffrl.evidence.subjects import subject

    for text in texts:
        settings = subject(text, "bundled:pipeline").run
        if settings is not None:
            return settings.preset
    return presets.names()[0]


def _base(given: str | None, judged: Sequence[Subject], model: str) -> Subject | None:
    """Return what the others are compared with: the model that all adapters belong to.

    Raises:
        SettingsError: if they belong to several.
    """
    from diffrl.evidence.subjects import Subject, subject

    if given == NONE:
        return None
    if given is not None:
        return subject(given if "=" in given else f"base={given}", model)
    models = list(dict.fromkeys(s.model for s in judged if s.weights is not None))
    if len(models) > 1:
        several = " and ".join(models)
        raise SettingsError([f"these belong to {several}; name one model with --base, or none"])
    return Subject("base", models[0], models[0]) if models else None


def _protocol(
    asked: Asked, runs: Sequence[Settings], model: Mapping[str, Any], precision: str
) -> Protocol:
    from diffrl.evidence.protocol import Protocol, sampler_called
    from diffrl.evidence.sharing import usual
    from diffrl.settings.checks import most_steps

    plain = {"sampler": "ddim", "guidance": 1.0, "eta": 1.0, **model}
    first = usual(runs[0]) if runs else plain
    sampler = asked.sampler or first["sampler"]
    steps = _steps(asked.steps, sampler, most_steps(sampler_called(sampler)))
    size, guidance = first.get("size"), first["guidance"]
    return Protocol(
        prompts=_prompts(asked.prompts, runs),
        steps=steps,
        seeds=asked.seeds,
        seed=asked.seed,
        sampler=sampler,
        eta=first["eta"] if asked.eta is None else asked.eta,
        size=None if size is None else int(size),
        guidance=float(guidance),
        precision=precision,
    )


def _prompts(asked: Sequence[str], runs: Sequence[Settings]) -> dict[str, tuple[str, ...]]:
    """Return the sets of prompts: as asked, else what the first run was trained on, and unseen.

    A run's own file is cut where the run's evaluations cut it.
    """
    from diffrl.evidence.protocol import PROMPTS
    from diffrl.trainer.preflight import open_prompts

    seen = runs[0].train.prompts if runs else PROMPTS[0]
    if not asked and seen not in PROMPTS:
        try:
            return {seen: open_prompts(seen)[: runs[0].eval.images]} | _prompts(PROMPTS[1:], runs)
        except PromptsError as error:
            typer.echo(f"left out: {error}", err=True)
    return {ref: open_prompts(ref) for ref in (asked or PROMPTS)}


def _steps(text: str, sampler: str, most: int) -> tuple[int, ...]:
    """Return numbers of steps written with commas.

    Raises:
        SettingsError: if one is no whole number from 1 to the most that the sampler takes.
    """
    parts = [part.strip() for part in text.split(",")]
    wrong = [p for p in parts if not (p.isdecimal() and 1 <= int(p) <= most)]
    if wrong:
        raise SettingsError(
            [
                f"--steps {text}: {wrong[0]!r} is no number of steps from 1 to {most}, the most "
                f"of the sampler {sampler!r}; write 1,2,4"
            ]
        )
    return tuple(dict.fromkeys(map(int, parts)))


def _device(asked: Asked, runs: Sequence[Settings], model: Mapping[str, Any]) -> tuple[str, str]:
    """Return device and precision: as asked, else the run's or the preset's precision.

    Raises:
        SettingsError: if this machine lacks the device, or cannot compute so.
    """
    from diffrl.trainer.ranks import check_device, device_here

    usual = runs[0].model.precision if runs else str(model.get("precision", "fp32"))
    precision = asked.precision or usual
    if precision not in ("fp32", "bf16", "fp16"):
        raise SettingsError([f"--precision {precision}: expected fp32, bf16 or fp16"])
    if found := check_device(asked.device, precision):
        raise SettingsError([f.replace("model.device =", "--device") for f in found])
    return device_here(asked.device), precision


def table(protocol: Protocol, cells: Sequence[Cell], rewards: Sequence[str]) -> Iterator[str]:
    """Yield, for each set of prompts, a table of rewards and one of measures."""
    for name, prompts in protocol.prompts.items():
        here = sorted((c for c in cells if c.prompts == name), key=lambda c: c.steps)
        measures = [n for c in here for n in c.found if n not in rewards]
        yield ""
        yield (
            f"{name}: {len(prompts)} prompts, pictures of each: {protocol.seeds}; ± half of the "
            f"95 % interval over {'prompts' if len(prompts) >= 8 else 'pictures'}; "
            f"σ standard deviation of pictures; "
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
    half = (one.high - one.low) / 2
    text = short(one.mean) + (f" ±{short(half)} σ{short(one.std)}" if half == half else "")
    return f"{text} ({cell.wins[name].mean:.0f} %)" if name in cell.wins else text
