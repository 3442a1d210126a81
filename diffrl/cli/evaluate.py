"""What `diffrl eval` does."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from diffrl import presets
from diffrl.cli.asked import Asked, base_of, device_of, protocol_of, usual_preset
from diffrl.cli.columns import columns
from diffrl.errors import DiffrlError, RewardError
from diffrl.figures import short
from diffrl.folder import EVALUATION, check_file

if TYPE_CHECKING:
    from diffrl.evidence.evaluation import Cell
    from diffrl.evidence.protocol import Protocol
    from diffrl.evidence.subjects import Subject
    from diffrl.scoring import ScoredBy


def evaluate(asked: Asked) -> None:
    """Judge models, print tables, and write what was found.

    Raises:
        DiffrlError: naming what is wrong; of the command line, before weights load. Models that
            can be judged are shown and kept all the same.
    """
    from diffrl.evidence import evaluation, files, judges, sharing, subjects
    from diffrl.trainer.session import quiet

    preset = asked.preset or usual_preset(asked.subjects, asked.model)
    content = presets.read(preset)
    model = asked.model or content["model"]["ref"]
    judged, problems = subjects.subjects_of(asked.subjects, model)
    base = base_of(asked.base, judged, model)
    everyone = ([base] if base else []) + judged
    subjects.refuse_twins(everyone)
    runs = [s.run for s in judged if s.run is not None]
    device, precision = device_of(asked, runs, content["model"])
    drawn = {**content["model"], "sampler": content.get("sampler", {}).get("name", "ddim")}
    question = protocol_of(asked, runs, drawn, precision)
    output = _output(asked)
    quiet()
    shared = sharing.shared_rewards(judged)
    own = [reward for _, reward in shared.values()]
    rewards, left_out = judges.open_rewards(
        asked.rewards, preset, asked.sets, own, question.prompts, device
    )
    embed, clip, why = judges.embedder(preset, device)
    given = {"sampler": asked.sampler, "precision": asked.precision, "eta": asked.eta}
    alike = sharing.set_otherwise(judged, shared, {r.scorer.name for r in rewards})
    alike += sharing.drawn_otherwise(judged, asdict(question), given)
    _announce([*left_out, *why], alike, [r.scorer for r in rewards] if base else [])
    looking = judges.Judges(rewards, embed and embed.image_embedding, _tell)
    cells: list[Cell] = []
    measured = files.measured_by(base.source if base else None, clip)
    save = partial(
        files.save, protocol=question, subjects=everyone, rewards=rewards, measured=measured
    )
    try:
        for found in evaluation.evaluate(judged, base, question, looking, device):
            cells += found
            save(output, cells=cells)
    except DiffrlError:
        for line in (*problems, *looking.unjudged, *looking.failures):
            _tell(line)
        raise
    finally:  # what is finished is shown and kept, whatever ended the rest
        if cells:
            typer.echo("\n".join(table(question, cells, [r.scorer.name for r in rewards])))
            typer.echo(f"\nevery picture's scores: {output}")
        _keep(judged, base, cells, question, save)
    there = {cell.subject for cell in cells}
    problems += looking.unjudged
    problems += [one.unfinished for one in judged if one.unfinished and one.name in there]
    if looking.failures:
        raise RewardError("\n".join([*problems, *looking.failures]))
    if problems:
        raise DiffrlError("\n".join(problems))


def _output(asked: Asked) -> Path:
    """Return the file to write, which can be written; each of several at once has its own."""
    usual = Path("evaluations") / f"{datetime.now():%Y-%m-%d-%H%M%S}-{os.getpid()}.json"
    output = asked.output or usual
    check_file(output)
    return output


def _announce(left_out: Sequence[str], alike: Sequence[str], beating: Sequence[ScoredBy]) -> None:
    """Say what is not asked as it might have been; `beating` are rewards that give wins."""
    from diffrl.scoring import GROUPWISE

    alone = [one.name for one in beating if one.groupwise]
    for line in (
        *(f"left out: {line}" for line in left_out),
        *(f"judged alike: {line}" for line in alike),
        *(f"reward {name!r} {GROUPWISE}: no share of wins" for name in alone),
    ):
        _tell(line)


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def _keep(
    judged: Sequence[Subject],
    base: Subject | None,
    cells: Sequence[Cell],
    question: Protocol,
    save: Callable[..., None],
) -> None:
    """Leave each run whose newest weights were judged its own part, if its folder takes it."""
    for one in judged:
        own = [c for c in cells if c.subject in (one.name, base and base.name)]
        if one.folder is None or not one.newest or one.name not in {c.subject for c in own}:
            continue
        before, now = _kept(one, question), _asked_of(own)
        if now < before:
            typer.echo(
                f"not kept in {one.folder}: its {EVALUATION} holds this and more; remove it first",
                err=True,
            )
            continue
        if gone := sorted({name for _, name, _ in before - now}):
            typer.echo(
                f"{one.folder / EVALUATION}: no longer holds all of {', '.join(gone)}", err=True
            )
        try:
            save(one.folder / EVALUATION, cells=own, own=one.name)
        except OSError as error:
            typer.echo(f"not kept in {one.folder}: {error.strerror or error}", err=True)


def _asked_of(cells: Sequence[Cell]) -> set[tuple[str, str, int]]:
    """Return what was found of what: prompts, reward or measure, steps."""
    return {
        (c.prompts, name, c.steps) for c in cells for name in (*c.values, *c.by_prompt, *c.found)
    }


def _kept(one: Subject, question: Protocol) -> set[tuple[str, str, int]]:
    """Return the same of what a run's folder keeps about the same weights, asked the same way."""
    from diffrl.evidence.files import afterwards

    assert one.folder is not None
    try:
        answers = afterwards(one.folder)
        parts = [key.rsplit("/", 2) for key in answers.values] if answers else []
        kept = {(prompts, name, int(n.removesuffix("-step"))) for prompts, name, n in parts}
    except (DiffrlError, ValueError):
        return set()
    if answers is None or answers.epoch != one.epoch or not _same(answers.asked, question):
        return set()
    return kept


def _same(asked: Mapping[str, Any], question: Protocol) -> bool:
    """Return whether two questions are about the same pictures, of the prompts that both have."""
    now = json.loads(json.dumps(question.record()))
    apart = {"steps", "prompts"}
    alike = all(asked.get(key) == value for key, value in now.items() if key not in apart)
    both = now["prompts"].keys() & asked["prompts"].keys()
    return alike and all(now["prompts"][name] == asked["prompts"][name] for name in both)


def table(protocol: Protocol, cells: Sequence[Cell], rewards: Sequence[str]) -> Iterator[str]:
    """Yield, for each set of prompts, a table of rewards and one of measures."""
    for name, prompts in protocol.prompts.items():
        here = sorted((c for c in cells if c.prompts == name), key=lambda c: c.steps)
        measures = [n for c in here for n in c.found if n not in rewards]
        yield ""
        yield (
            f"{name}: {len(prompts)} prompts, pictures of each: {protocol.seeds}; ± half of the "
            f"95 % interval over "
            f"{'prompts' if len(set(prompts)) >= 8 else 'pictures, of diversity over prompts'}; "
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
