"""The commands that judge runs and what was trained. Their work is imported late."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffrl.cli.options import Config, Preset, Rewards, Sets, Watch


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(doctor)
    app.command("eval")(evaluate)
    app.command()(compare)
    app.command()(report)
    app.command()(reproduce)


def doctor(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN[@EPOCH]",
            help="A run's folder, or RUN@EPOCH; its newest checkpoint if no epoch is given.",
        ),
    ] = None,
    algo: Annotated[str | None, typer.Option(help="Algorithm: see `diffrl list-plugins`.")] = None,
    reward: Rewards = None,
    watch: Watch = None,
    preset: Preset = None,
    model: Annotated[str | None, typer.Option(help="Hub id or folder of the model.")] = None,
    prompts: Annotated[
        str | None, typer.Option(help="animals, unseen, or a file of prompts.")
    ] = None,
    preferences: Annotated[
        Path | None, typer.Option(help="JSON lines of judged pairs to learn from.")
    ] = None,
    reward_checkpoint: Annotated[
        list[str] | None, typer.Option(metavar="NAME=REF", help="Weights of a reward; repeatable.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda, cuda:<number> or mps.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")] = None,
    config: Config = None,
    set_: Sets = None,
    pictures: Annotated[
        Path | None,
        typer.Option(help="Folder of pictures that rewards must prefer to noise."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Check that a run would learn what it should; exit with 1 if not."""
    from diffrl.cli import doctor as command
    from diffrl.cli.train import Request, flags

    named = {"model": model, "prompts": prompts, "preferences": preferences}
    named |= {"device": device, "precision": precision}
    given = flags(named, reward_checkpoint or [])
    request = Request(algo, reward or [], preset, config, set_ or [], given, watch or [])
    raise typer.Exit(command.doctor(request, run, pictures, as_json, debug))


def evaluate(
    subjects: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]RUN[@EPOCH]|LORA|MODEL...",
            help="Runs, adapters or models; all draw from the same noise.",
        ),
    ],
    reward: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Reward to score with; repeatable; default: all."),
    ] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option(help="animals, unseen, a file; repeatable; default: the run's own, unseen."),
    ] = None,
    steps: Annotated[
        str, typer.Option(metavar="N,N,…", help="Numbers of denoising steps.")
    ] = "1,2,4,8,16,50",
    seeds: Annotated[int, typer.Option(min=1, help="Pictures of every prompt.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all noise.")] = 1234,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Preset of the weights; default: the run's, else that of the model, else emoji."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model that a bare LoRA belongs to.")] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Model to compare with; default: the adapters' own; none: without."),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="Default: the run's, or the preset's.")
    ] = None,
    eta: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Noise of the sampler; default: the run's, or 1."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:<number> or mps.")] = "auto",
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="rewards.NAME.FIELD=VALUE; repeatable."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="JSON; default in evaluations/."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Judge runs, adapters and models on the same noise: rewards, and what hacking destroys."""
    from diffrl.builtin.references import recording
    from diffrl.cli import evaluate as command

    asked = command.Asked(
        subjects=subjects,
        rewards=reward or [],
        prompts=prompts or [],
        steps=steps,
        seeds=seeds,
        seed=seed,
        preset=preset,
        model=model,
        base=base,
        sampler=sampler,
        eta=eta,
        device=device,
        precision=precision,
        sets=set_ or [],
        output=output,
    )
    with recording():
        command.evaluate(asked)


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...", help="Runs, or folders of runs that differ only in seed."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Print what differs between runs and a verdict for each metric; the first is the yardstick."""
    from diffrl.cli.compare import compare as command

    command(runs, as_json)


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Runs, or folders that hold runs.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="HTML file; default report.html in the run, of several here.",
        ),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show it in a browser.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Write one HTML page about runs: curves, pictures over time, settings; and its plots."""
    from diffrl.cli.report import report as command

    command(runs, output, open_)


def reproduce(
    card: Annotated[
        str | None, typer.Argument(metavar="CARD", help="A card's name or TOML file; none: list.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="One that the card knows.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the run; default reproductions/CARD-SEED.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Run a card of settings and figures again; exit with 1 if the figures differ."""
    from diffrl.cli import reproduce as command
    from diffrl.errors import SettingsError

    if card is None and not (seed is None and output is None):
        raise SettingsError(["--seed, --output: of which card? diffrl reproduce lists them"])
    if card is None:
        typer.echo("\n".join(command.listed()))
    else:
        command.reproduce(card, seed, output)
