"""What `diffrl reproduce` does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from diffrl.cli.columns import columns
from diffrl.errors import one_line
from diffrl.figures import short

if TYPE_CHECKING:
    from diffrl.evidence.reproduce import Card, Check

FAILED = 1


def listed() -> Iterator[str]:
    """Yield the cards there are."""
    from diffrl.evidence.reproduce import card, names

    cards = [card(name) for name in names()]
    rows = [[c.name, _time(c.minutes), c.about] for c in cards]
    yield from columns(rows, ["card", "takes", "about"])


def reproduce(name: str, seed: int | None, output: Path | None) -> None:
    """Run a card, print its checks and exit with 1 if one fails."""
    from diffrl.evidence.reproduce import card, reproduce

    one = card(name)
    chosen = one.seeds[0] if seed is None else seed
    folder = output or Path("reproductions") / f"{one.name}-{chosen}"
    main = os.environ.get("RANK", "0") == "0"
    if main:
        typer.echo(f"{one.name}: {one_line(one.about)}\nfigures: {one_line(one.source)}")
    checks = reproduce(one, chosen, folder, typer.echo if main else lambda _: None)
    if main:
        typer.echo("\n".join(_lines(one, checks, folder)))
    if not all(check.passed for check in checks):
        raise typer.Exit(FAILED)


def _lines(one: Card, checks: Sequence[Check], folder: Path) -> Iterator[str]:
    rows = [
        [
            one_line(check.figure.metric),
            str(check.figure.epoch),
            f"{short(check.figure.value)} ± {check.figure.tolerance:g}",
            "–" if check.found is None else short(check.found),
            "pass" if check.passed else typer.style("fail", fg="red"),
        ]
        for check in checks
    ]
    yield from columns(rows, ["metric", "epoch", "expected", "found", ""])
    failed = sum(not check.passed for check in checks)
    said = "pass" if not failed else f"fail: {failed} of {len(checks)} figures"
    yield f"{one.name}: {said}. The run: {folder}"


def _time(minutes: float) -> str:
    return f"{minutes:.0f} min" if minutes else "?"
