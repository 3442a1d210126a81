"""What `diffrl doctor` does."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from diffrl.cli.train import Request, new, resumed
from diffrl.errors import SettingsError
from diffrl.settings import Settings
from diffrl.shelf import chosen, settings_of, split

if TYPE_CHECKING:
    from rich.console import Console

    from diffrl.doctor import Finding

STYLES = {"pass": "green", "fail": "bold red", "skip": "dim"}


def doctor(
    request: Request, run: Path | None, pictures: Path | None, as_json: bool, debug: bool
) -> int:
    """Build a run, examine it, and print what was found; return 1 if something failed.

    Raises:
        DiffrlError: naming what is wrong with the settings, before weights load.
    """
    run, epoch = (None, None) if run is None else split(run)
    settings = new(request) if run is None else _of_run(request, run)
    from diffrl.doctor import examine, read_pictures
    from diffrl.doctor.pictures import refuse_unfit
    from diffrl.trainer import checkpoint
    from diffrl.trainer.engines import settled, unsplit
    from diffrl.trainer.preflight import preflight
    from diffrl.trainer.ranks import accelerator
    from diffrl.trainer.session import build

    settings = unsplit(settled(settings, os.environ))
    given = None if pictures is None else read_pictures(pictures)
    if given is not None:
        refuse_unfit(settings, given.text)
    prompts = preflight(settings, None, run)
    made = accelerator(settings.model.device, settings.model.precision)
    with tempfile.TemporaryDirectory(prefix="diffrl-doctor-") as folder:
        session = build(settings, made, Path(folder), prompts)
        start = None if run is None else chosen(run, epoch)
        if start is not None:
            session.go_on(checkpoint.load(start, session.policy, session.ranks, session.rng))
        findings = examine(session, given, debug)
    if session.ranks.is_main:
        _print(settings, run, session.epoch, findings, as_json)
    session.ranks.wait()
    return int(any(one.verdict == "fail" for one in findings))


def _of_run(request: Request, run: Path) -> Settings:
    """Return a run's settings with the overrides given.

    Raises:
        ResumeError: if the folder holds no run, or another one is asked for.
        SettingsError: if an option is given that only a new run can have.
    """
    settings_of(run, "examine")
    if request.config is not None or request.watch:
        option = "--watch" if request.config is None else "--config"
        raise SettingsError([f"{option} cannot be given with the run {run}; try --set"])
    return resumed(request, run, None)


def _print(
    settings: Settings,
    run: Path | None,
    epoch: int,
    findings: Sequence[Finding],
    as_json: bool,
) -> None:
    failed = sum(one.verdict == "fail" for one in findings)
    if as_json:
        said = {"failed": failed, "findings": [asdict(one) for one in findings]}
        typer.echo(json.dumps(said, indent=2))
        return
    from rich.console import Console

    console = Console()
    what = f"{settings.recipe.name} on {settings.model.ref}"
    rewards = " + ".join(w.reward.name for w in settings.rewards)
    what += f", reward {rewards}" if rewards else ""
    what += f", {settings.model.precision}"
    what += "" if run is None else f": {run}, epoch {epoch}"
    console.print(what, markup=False, highlight=False, soft_wrap=True)
    _table(console, findings)
    for one in findings:
        if one.verdict == "fail":
            console.print(
                f"{one.check}: {one.advice}", markup=False, highlight=False, soft_wrap=True
            )
    counts = {v: sum(one.verdict == v for one in findings) for v in ("pass", "fail", "skip")}
    console.print(
        f"{counts['pass']} passed, {counts['fail']} failed, {counts['skip']} skipped",
        highlight=False,
    )


def _table(console: Console, findings: Sequence[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in ("check", "measured", "limit", "verdict"):
        table.add_column(name)
    for one in findings:
        verdict = Text(one.verdict, style=STYLES[one.verdict])
        table.add_row(Text(one.check), Text(one.measured), Text(one.limit), verdict)
    console.print(table)
