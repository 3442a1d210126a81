"""A page about runs: one HTML file that needs nothing else, and its plots as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffrl.errors import DiffrlError
from diffrl.folder import REPORT
from diffrl.report.groups import grouped, unlike
from diffrl.report.page import render
from diffrl.report.records import Record, own, read
from diffrl.report.tables import apart


def write_report(folders: Sequence[Path], output: Path) -> list[str]:
    """Write a page about runs, and its plots as PNG and SVG into a folder beside it.

    That is `plots/` beside `report.html`, `<name>-plots/` beside other pages.

    Args:
        folders: of the runs.
        output: the HTML file.

    Returns:
        What could not be shown, one line each.

    Raises:
        DiffrlError: if there is nothing to show at all, or the plots' folder is a link elsewhere.
    """
    records, problems = read(folders)
    plots = output.parent / ("plots" if output.name == REPORT else f"{output.stem}-plots")
    if not own(output.parent, plots):
        raise DiffrlError(f"{plots} is a link that leads out of {output.parent}; remove it")
    groups = grouped(records)
    problems += render(groups, output, plots)
    problems += [line for record in records for line in record.missing()]
    problems += unlike(groups)
    return problems + [line for group in groups for line in apart(group)]


__all__ = ["Record", "write_report"]
