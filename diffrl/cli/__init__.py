"""The command line. Only what a command needs is imported, when it runs."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 2 refused, 3 stopped and saved, 130 interrupted."""
    from diffrl import moments

    moments.begin()
    from diffrl.cli.app import app
    from diffrl.cli.idling import yield_soon
    from diffrl.errors import DiffrlError
    from diffrl.paths import at_home

    yield_soon()
    args = [at_home(word) for word in (sys.argv[1:] if argv is None else argv)]
    try:
        code = app(args, standalone_mode=False, prog_name="diffrl")
    except DiffrlError as error:
        if "--debug" in args:
            traceback.print_exc()
        _stop(str(error), error.exit_code)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except OSError as error:
        if "--debug" in args:
            traceback.print_exc()
        place = f"{error.filename}: " if error.filename else ""
        _stop(f"{place}{error.strerror or error} (--debug shows where)", 3)
    except Exception as error:
        if type(error).__name__ == "Abort":  # how older typers pass on a KeyboardInterrupt
            code = INTERRUPTED
        elif hasattr(error, "format_message"):  # usage errors of typer, which may bundle its click
            _usage(error)
        else:
            raise
    if code == INTERRUPTED:
        print("error: interrupted", file=sys.stderr)
    sys.exit(code or 0)


def _usage(error: Any) -> NoReturn:
    """Print a usage error in one line, and where help is."""
    message = error.format_message().rstrip().removesuffix(".")
    path = getattr(getattr(error, "ctx", None), "command_path", "diffrl")
    if not message:  # no command at all: the help is printed already
        sys.exit(2)
    _stop(f"{' '.join(message.split())} (see `{path} --help`)")


def _stop(message: str, code: int = 2) -> NoReturn:
    lines = "\n".join(map(_printable, message.split("\n")))
    print(f"error: {lines}", file=sys.stderr)
    sys.exit(code)


def _printable(line: str) -> str:
    """Return a line that does nothing to a terminal, whatever was read."""
    return "".join(c if c.isprintable() else "?" for c in line)
