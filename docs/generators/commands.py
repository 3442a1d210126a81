"""The command line, from the typer application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from generators.markdown import table


def cli() -> str:
    """Return every command with its arguments and options."""
    from typer.main import get_command

    from diffrl.cli.app import app

    group: Any = get_command(app)
    return "\n\n".join(
        f"## diffrl {name}\n\n{' '.join((command.help or '').split())}\n\n"
        + table(("argument or option", "meaning"), options(command))
        for name, command in group.commands.items()
    )


def options(command: Any) -> Iterator[tuple[str, str]]:
    """Yield how each parameter of a command is typed, and its help."""
    for parameter in command.params:
        flags = parameter.opts[0].startswith("-")
        metavar = getattr(parameter, "metavar", None)
        typed = ", ".join(parameter.opts) if flags else metavar or parameter.name.upper()
        if flags and metavar:
            typed += f" {metavar}"
        told = " ".join((getattr(parameter, "help", "") or "").split())
        usual = parameter.default
        if usual in (None, False, "auto") or callable(usual) or not flags:
            yield f"`{typed}`", told
        else:
            yield f"`{typed}`", f"{told} Default: `{usual}`."
