"""What `diffrl report` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from diffrl.errors import DiffrlError, one_line
from diffrl.folder import REPORT, SETTINGS, check_file
from diffrl.paths import there


def report(runs: Sequence[Path], output: Path | None, show: bool) -> None:
    """Write a page about runs and say where it is.

    Raises:
        DiffrlError: if something could not be shown; the rest is written all the same.
    """
    from diffrl.report import write_report

    if output is None:
        alone = len(runs) == 1
        output = runs[0] / REPORT if alone else Path(REPORT)
        found = there(runs[0]) if alone else None
        if alone and not (found and found.is_dir()):
            named = one_line(str(runs[0]))
            raise DiffrlError(f"no run in {named}: expected a folder with {SETTINGS}")
    check_file(output)
    try:
        left_out = write_report(runs, output)
    except OSError as error:
        raise DiffrlError(f"cannot write {output}: {error.strerror or error}") from None
    typer.echo(f"report: {output}")
    if show:
        open_in_browser(output)
    if left_out:
        raise DiffrlError("\n".join(left_out))


def open_in_browser(path: Path) -> None:
    """Show a file in the browser of this machine, if it has one."""
    import webbrowser

    if not webbrowser.open(path.resolve().as_uri()):
        typer.echo(f"no browser here; open {path} elsewhere", err=True)
