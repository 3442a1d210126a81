"""The options of `diffrl plan`. Its work is imported late."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffrl.cli.options import Config, Preset, Rewards, Sets, Watch


def plan(
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
    epochs: Annotated[int | None, typer.Option(help="Rounds of sampling and updating.")] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda, cuda:<number> or mps.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")] = None,
    config: Config = None,
    set_: Sets = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="H200, H100, A100-80, A100-40, L40S, RTX4090, RTX3090 or T4, in place of what "
            "is here.",
        ),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory of another GPU: 24GiB.")
    ] = None,
    tflops: Annotated[
        float | None, typer.Option(help="Dense TFLOPS of that GPU in the run's precision.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes that share an epoch.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    no_probe: Annotated[
        bool, typer.Option("--no-probe", help="Measure nothing; only count.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Estimate memory and time of a run before weights load; exit with 1 if it does not fit."""
    from diffrl.cli import plan as command
    from diffrl.cli.train import Request, flags

    named = {"model": model, "prompts": prompts, "preferences": preferences, "epochs": epochs}
    named |= {"device": device, "precision": precision}
    given = flags(named, reward_checkpoint or [])
    request = Request(algo, reward or [], preset, config, set_ or [], given, watch or [])
    place = command.Place(gpu, memory, tflops, processes, not no_probe)
    raise typer.Exit(command.plan(request, place, as_json))
