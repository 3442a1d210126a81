"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Rewards = Annotated[
    list[str] | None,
    typer.Option(
        "--reward",
        metavar="NAME[:WEIGHT]",
        help="What to train on: a name, module:function or http://host:port; repeatable.",
    ),
]
Watch = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A reward to score with, not to train on; repeatable."),
]
Preset = Annotated[
    str | None,
    typer.Option(help="What is trained: see `diffrl presets`; emoji if not given."),
]
Config = Annotated[Path | None, typer.Option(help="TOML file with settings.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting: loss.clip=2e-4; repeatable."),
]
