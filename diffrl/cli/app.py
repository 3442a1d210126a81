"""All commands and their options. Each command imports its work when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffrl.cli.judging import register
from diffrl.cli.options import Config, Preset, Rewards, Sets, Watch
from diffrl.cli.planning import plan

app = typer.Typer(
    name="diffrl",
    help="Finetune diffusion models by reinforcement learning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> bool:
    if wanted:
        import diffrl

        typer.echo(f"diffrl {diffrl.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Finetune diffusion models by reinforcement learning.

    Every method is a recipe of five swappable parts.
    """


@app.command()
def train(
    algo: Annotated[str | None, typer.Option(help="Algorithm: see `diffrl list-plugins`.")] = None,
    reward: Rewards = None,
    watch: Watch = None,
    preset: Preset = None,
    model: Annotated[str | None, typer.Option(help="Hub id, id@revision or folder.")] = None,
    prompts: Annotated[
        str | None, typer.Option(help="animals, unseen, or a file of prompts.")
    ] = None,
    preferences: Annotated[
        Path | None,
        typer.Option(help="JSON lines of judged pairs to learn from: prompt, images, choice."),
    ] = None,
    reward_checkpoint: Annotated[
        list[str] | None, typer.Option(metavar="NAME=REF", help="Weights of a reward; repeatable.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Rounds of sampling and updating.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all randomness.")] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda, cuda:<number> or mps.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A tracker beside TensorBoard: wandb, …; repeatable."),
    ] = None,
    config: Config = None,
    set_: Sets = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the run; runs/ALGO-REWARD-DATE if not given."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN[@EPOCH]", help="Folder of a run to continue; from its newest checkpoint."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print settings and stop, before files and devices.")
    ] = False,
    open_: Annotated[bool, typer.Option("--open", help="Show the report at the end.")] = False,
    anyway: Annotated[
        bool,
        typer.Option(
            "--anyway", help="Start even if the run may not fit into memory; see `diffrl plan`."
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Train a model, or continue a run with --resume."""
    from diffrl.cli import train as command

    named = {"model": model, "prompts": prompts, "epochs": epochs, "seed": seed}
    named |= {"device": device, "precision": precision, "preferences": preferences}
    flags = command.flags(named, reward_checkpoint or [], track or [])
    request = command.Request(algo, reward or [], preset, config, set_ or [], flags, watch or [])
    command.train(request, output, resume, dry_run, open_, anyway)


@app.command()
def show(
    algo: Annotated[str, typer.Argument(help="Algorithm: see `diffrl list-plugins`.")],
    reward: Rewards = None,
    preset: Preset = None,
    config: Config = None,
    set_: Sets = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Print an algorithm's five stages and all settings, each with its origin."""
    from diffrl.cli.tables import settings_lines
    from diffrl.settings.resolve import resolve

    settings = resolve(algo, reward or [], preset or "emoji", config, set_ or [], need_reward=False)
    typer.echo("\n".join(settings_lines(settings)))


@app.command("list-plugins")
def list_plugins(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    kind: Annotated[
        str | None, typer.Option(help="Print this kind only: algorithm, reward, loss, sampler, …")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Print installed algorithms and what they are made of."""
    from diffrl.cli.plugins import plugin_lines, plugins_json

    typer.echo(plugins_json(kind) if as_json else "\n".join(plugin_lines(kind)))


@app.command()
def presets(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Print what can be trained, and the main settings."""
    from diffrl.cli.tables import preset_lines

    typer.echo("\n".join(preset_lines()))


@app.command("new-plugin")
def new_plugin(
    name: Annotated[str, typer.Argument(help="Name of the component, in kebab-case.")],
    kind: Annotated[
        str,
        typer.Option(
            help="loss (with its algorithm), reward, sampler, reward-predictor, "
            "advantage-estimator or update-scheduler."
        ),
    ] = "loss",
    output: Annotated[Path, typer.Option(help="Folder to write the package into.")] = Path("."),
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Write a plugin package whose tests pass at once."""
    from diffrl.cli.new_plugin import new_plugin as write
    from diffrl.errors import quoted

    folder = write(name, kind, output)
    typer.echo(f"{folder}: pip install pytest -e {quoted(folder)} && pytest {quoted(folder)}")


@app.command()
def ablate(
    algo: Annotated[str | None, typer.Option(help="Algorithm: see `diffrl list-plugins`.")] = None,
    reward: Rewards = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE,VALUE", help="A setting, or algo, and its values; repeatable."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of every combination.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at the same time.")] = 1,
    preset: Preset = None,
    epochs: Annotated[int | None, typer.Option(help="Rounds of each run.")] = None,
    config: Config = None,
    set_: Sets = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder; the same one continues an ablation.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Train every combination of values and seeds; write a table and plots."""
    from diffrl.cli.ablate import ablate as run
    from diffrl.cli.grid import Plan, digest, usual_folder

    plan = Plan(
        algo=algo,
        rewards=reward or [],
        preset=preset or "emoji",
        config=str(config) if config else None,
        config_digest=digest(config),
        sets=set_ or [],
        vary=vary or [],
        seeds=seeds,
        epochs=epochs,
    )
    run(plan, output or usual_folder(plan), jobs)


@app.command("serve-reward")
def serve_reward(
    reward: Annotated[str, typer.Argument(metavar="NAME", help="A name or module:function.")],
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8765,
    preset: Annotated[
        str | None,
        typer.Option(help="Preset of the weights: see `diffrl presets`; emoji if not given."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A field of the reward: precision=bf16; repeatable.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:<number> or mps.")] = "cpu",
    batch: Annotated[int, typer.Option(min=1, help="Pictures scored in one call.")] = 64,
    max_megabytes: Annotated[int, typer.Option(min=1, help="Largest request, in MiB.")] = 256,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Serve a reward over HTTP, for runs in other processes or on other machines.

    A token that clients must send is read from DIFFRL_REWARD_TOKEN.
    """
    from diffrl.cli.serve import serve

    serve(reward, preset or "emoji", set_ or [], device, host, port, batch, max_megabytes)


app.command()(plan)
register(app)
