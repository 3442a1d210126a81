"""What the command line of `diffrl eval` asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from diffrl import presets
from diffrl.errors import PromptsError, SettingsError

if TYPE_CHECKING:
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


def usual_preset(texts: Sequence[str], model: str | None) -> str:
    """Return the preset of the first run that is judged, or of the first known model.

    Where there is neither, it is the usual one, and a line says whose rewards these are.
    """
    from diffrl.evidence.subjects import subjects_of

    every, _ = subjects_of(texts, model or "bundled:pipeline")
    for one in every:
        if one.run is not None:
            return one.run.preset
    of_model = {presets.read(name)["model"]["ref"]: name for name in reversed(presets.names())}
    for one in every:
        if (name := one.model.partition("@")[0]) in of_model:
            return of_model[name]
    usual = presets.names()[0]
    typer.echo(
        f"rewards: those of the preset {usual!r}, since none is of the model {every[0].model!r}; "
        f"name another with --preset",
        err=True,
    )
    return usual


def base_of(given: str | None, judged: Sequence[Subject], model: str) -> Subject | None:
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


def protocol_of(
    asked: Asked, runs: Sequence[Settings], model: Mapping[str, Any], precision: str
) -> Protocol:
    """Return the question: as asked, else as the first run or the preset has it."""
    from diffrl.evidence.protocol import Protocol, sampler_called
    from diffrl.evidence.sharing import usual
    from diffrl.settings.checks import step_bounds

    plain = {"guidance": 1.0, "eta": 1.0, **model}
    first = usual(runs[0]) if runs else plain
    sampler = asked.sampler or first["sampler"]
    made = sampler_called(sampler)
    if asked.eta is not None and "eta" not in type(made).model_fields:
        raise SettingsError([f"--eta {asked.eta:g}: sampler {sampler!r} has none; leave it out"])
    steps = _steps(asked.steps, sampler, *step_bounds(made))
    size, guidance = first.get("size"), first["guidance"]
    return Protocol(
        prompts=prompts_of(asked.prompts, runs),
        steps=steps,
        seeds=asked.seeds,
        seed=asked.seed,
        sampler=sampler,
        eta=first["eta"] if asked.eta is None else asked.eta,
        size=None if size is None else int(size),
        guidance=float(guidance),
        precision=precision,
    )


def prompts_of(asked: Sequence[str], runs: Sequence[Settings]) -> dict[str, tuple[str, ...]]:
    """Return the sets of prompts: as asked, else what the first run was trained on, and unseen.

    A run's own file is cut where the run's evaluations cut it.
    """
    from diffrl.evidence.protocol import PROMPTS
    from diffrl.trainer.opening import open_prompts

    seen = runs[0].train.prompts if runs else PROMPTS[0]
    if not asked and seen not in PROMPTS:
        try:
            return {seen: open_prompts(seen)[: runs[0].eval.images]} | prompts_of(PROMPTS[1:], runs)
        except (PromptsError, SettingsError) as error:
            typer.echo(f"left out: {' '.join(str(error).split())}", err=True)
    return {ref: open_prompts(ref) for ref in (asked or PROMPTS)}


def _steps(text: str, sampler: str, least: int, most: int) -> tuple[int, ...]:
    """Return numbers of steps written with commas.

    Raises:
        SettingsError: if one is no whole number that the sampler takes.
    """
    parts = [part.strip() for part in text.split(",")]
    wrong = [p for p in parts if not (p.isdecimal() and least <= int(p) <= most)]
    if wrong:
        raise SettingsError(
            [
                f"--steps {text}: {wrong[0]!r} is no number of steps from {least} to {most}, the "
                f"most of the sampler {sampler!r}; write 1,2,4"
            ]
        )
    return tuple(dict.fromkeys(map(int, parts)))


def device_of(asked: Asked, runs: Sequence[Settings], model: Mapping[str, Any]) -> tuple[str, str]:
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
