"""What `diffrl plan` does."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import typer

from diffrl.cli.train import Request, new
from diffrl.errors import OutOfMemory, SettingsError
from diffrl.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from diffrl.planning.estimate import Estimate
    from diffrl.planning.plan import Plan


@dataclass(frozen=True)
class Place:
    """Where a run is planned to be.

    Args:
        gpu: name of the table.
        memory: of another GPU.
        tflops: of it.
        processes: of the run.
        probes: whether the device is measured if it is here.
    """

    gpu: str | None = None
    memory: str | None = None
    tflops: float | None = None
    processes: int = 1
    probes: bool = True


def plan(request: Request, place: Place, as_json: bool) -> int:
    """Plan a run and print the plan; return 1 if it does not fit.

    Raises:
        DiffrlError: naming what is wrong with the settings or the device.
    """
    from diffrl.settings.splitting import shard_problems
    from diffrl.trainer.engines import settled

    settings = new(request)
    if problems := shard_problems(settings := settled(settings, {}), place.processes):
        raise SettingsError(problems)
    made = planned(settings, place)
    if as_json:
        typer.echo(json.dumps(made.as_json(), indent=2))
    else:
        show(made)
    return int(not made.fits)


def planned(settings: Settings, place: Place) -> Plan:
    """Return the plan of settings, probed where their device is here and they fit.

    Raises:
        DiffrlError: naming what is wrong with the settings or the device.
    """
    import diffrl.trainer  # noqa: F401  imported by a run, so that it counts as memory
    from diffrl.planning.advice import suggestions
    from diffrl.planning.devices import device_of
    from diffrl.planning.estimate import Estimate
    from diffrl.trainer.ranks import check_device
    from diffrl.trainer.session import refuse_odd_side

    model = settings.model
    if place.gpu is None and place.memory is None:
        if problems := check_device(model.device, model.precision):
            raise SettingsError(problems)
    tf32 = settings.speed.tf32
    device = device_of(place.gpu, place.memory, place.tflops, model.device, model.precision, tf32)
    estimate = Estimate(settings, prompts_of(settings), device, place.processes)
    refuse_odd_side(model.size, estimate.config.shrinks)
    made = estimate.plan()
    if device.here and place.probes and place.tflops is None and _may_fit(estimate):
        estimate = _probed(estimate)
        made = estimate.plan()
    return made if made.fits else made.suggesting(suggestions(estimate))


def prompts_of(settings: Settings) -> tuple[str, ...]:
    """Return the prompts that a run samples.

    Raises:
        DiffrlError: if there are none.
    """
    from diffrl.trainer.opening import open_prompts
    from diffrl.trainer.scorers import reward_problems

    prompts = open_prompts(ref := settings.train.prompts)
    problems = settings.recipe.sampler.prompt_problems(prompts)
    if problems := [*problems, *reward_problems(settings, {ref: prompts}, ref)]:
        raise SettingsError(problems)
    return prompts


def _may_fit(estimate: Estimate) -> bool:
    return replace(estimate, least=True, costs=estimate.counted).plan().fits


def _probed(estimate: Estimate) -> Estimate:
    """Return an estimate with what a probe found; where memory ends in it, with a note of that."""
    from diffrl.planning.probe import probe, worth_it
    from diffrl.speed.fitting import give_back, in_words

    shape = worth_it(estimate.counted, estimate.shape, estimate.plan().room)
    if shape is None:
        return estimate
    where = estimate.settings.model.device
    kind = estimate.device.kind
    device = where if where.startswith(kind) else kind
    try:
        with in_words("memory ends in trying the networks", "--no-probe, which only counts"):
            measured = probe(estimate.settings, estimate.config, shape, device)
    except OutOfMemory:
        give_back()
        told = "memory ended in trying the networks, so that all is counted and nothing measured"
        return replace(estimate, costs=estimate.counted, told=(told,))
    return replace(estimate, measured=measured, costs=estimate.counted)


def show(made: Plan) -> None:
    """Print a plan for people."""
    from rich.console import Console

    from diffrl.planning.words import duration, refusal, verdict

    console = Console()
    said = [f"{made.run}: {made.trained:,} weights trained, {made.frozen:,} frozen in the UNet"]
    _print(console, said)
    _parts(console, made)
    _phases(console, made)
    said = [verdict(made)]
    if made.seconds is not None and made.epoch_seconds:
        rate = made.trajectories / made.epoch_seconds
        said.append(
            f"an epoch takes {duration(made.epoch_seconds)}, {rate:.3g} samples/s; "
            f"all {made.epochs} with evaluations {duration(made.seconds)}"
        )
    said += [f"speed: {made.speed}", *made.notes]
    _print(console, [*said, *([] if made.fits else refusal(made))])


def _print(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _parts(console: Console, made: Plan) -> None:
    from rich.table import Table
    from rich.text import Text

    from diffrl.planning.words import size

    table = Table(box=None, pad_edge=False)
    table.add_column("held all the time")
    table.add_column("memory", justify="right")
    for part in made.held:
        table.add_row(Text(part.name), size(part.bytes))
    table.add_row(Text("together"), size(sum(part.bytes for part in made.held)), style="bold")
    console.print(table)


def _phases(console: Console, made: Plan) -> None:
    from rich.table import Table
    from rich.text import Text

    from diffrl.planning.words import duration, size

    table = Table(box=None, pad_edge=False)
    for name, justify in [("phase", "left"), ("largest call", "left"), ("needs besides", "right"),
                          ("TFLOP", "right"), ("time", "right")]:  # fmt: skip
        table.add_column(name, justify=justify)  # pyright: ignore[reportArgumentType]
    for phase in made.phases:
        marked = " ← decides" if phase is made.largest else ""
        works = phase.tflop > 0
        table.add_row(
            Text(phase.name + marked),
            Text(phase.calls),
            size(phase.bytes),
            f"{phase.tflop:.3g}" if works else "",
            duration(phase.seconds) if works else "",
        )
    console.print(table)
