"""What a run's folder holds, as a report needs it. Broken parts are left out, and told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from diffrl.errors import DiffrlError, one_line
from diffrl.folder import (
    CHECKPOINTS,
    ENVIRONMENT,
    EVALUATION,
    IMAGES,
    METRICS,
    NOTICES,
    SETTINGS,
    count_lines,
    read_lines,
    read_metrics,
    read_object,
)
from diffrl.paths import there
from diffrl.report.shapes import Cells, Environment

LINE = re.compile(r"(?P<key>[\w.-]+) = (?P<value>.*)")
TABLE = re.compile(r"\[(?P<table>[^\]]+)\]")
Shape = TypeVar("Shape", bound=BaseModel)
MARK = "  # "
"""Before the origin of a value, in a saved settings file."""


@dataclass(frozen=True)
class Value:
    """One setting as it was saved: dotted key, value as written, and where it came from."""

    key: str
    text: str
    origin: str


@dataclass(frozen=True)
class Notice:
    """What was noticed in an epoch, by whom, and what was done."""

    epoch: str
    source: str
    message: str
    action: str


@dataclass(frozen=True)
class Record:
    """A run, finished or not.

    Args:
        folder: of the run.
        settings: every value, in the order of the file.
        metrics: one mapping an epoch, 0 being before training.
        pictures: the grids by epoch.
        before_after: the last comparison, if the run ended.
        environment: versions and machine.
        evaluation: what `diffrl eval` found, if it was asked.
        broken: the files that are there and cannot be read, one line each.
        notices: what checks and the watchdog said while the run went on.
    """

    folder: Path
    settings: tuple[Value, ...]
    metrics: tuple[dict[str, Any], ...]
    pictures: tuple[tuple[int, Path], ...]
    before_after: Path | None
    environment: Environment
    evaluation: Cells | None
    broken: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()

    def setting(self, key: str) -> str:
        """Return a setting as it was written, without quotes, or nothing."""
        return next((v.text.strip('"') for v in self.settings if v.key == key), "")

    @property
    def rewards(self) -> list[str]:
        """The names of the rewards that were trained on."""
        found = [re.fullmatch(r"rewards\.(.+)\.weight", v.key) for v in self.settings]
        return [m[1] for m in found if m]

    @property
    def epochs(self) -> int:
        """How many epochs are finished."""
        return int(self.metrics[-1]["epoch"]) if self.metrics else 0

    def missing(self) -> list[str]:
        """Return what the page cannot show of this run, one line each."""
        if self.epochs == 0:
            unborn = f"{self.folder}: no epoch is finished, so there are no curves"
            return [unborn, *self.broken]
        total = self.setting("train.epochs")
        if total.isdecimal() and self.epochs < int(total):
            return [f"{self.folder}: unfinished, at epoch {self.epochs} of {total}", *self.broken]
        return list(self.broken)

    @property
    def name(self) -> str:
        """What tells it from others: the last two parts of its path."""
        return "/".join(self.folder.resolve().parts[-2:])


def read(folders: Sequence[Path]) -> tuple[list[Record], list[str]]:
    """Return the runs in folders, and what is wrong with the others.

    A folder that holds no run but folders with runs stands for all of those.

    Raises:
        DiffrlError: if no folder holds a run.
    """
    records, problems = [], []
    seen: set[Path] = set()
    for folder in folders:
        inside = [folder] if there(folder / SETTINGS) else _inside(folder)
        inside = [one for one in inside if one.resolve() not in seen]
        seen |= {one.resolve() for one in inside}
        if not inside and folder.resolve() not in seen:
            problems.append(f"no run in {folder}: expected a folder with {SETTINGS}")
        for one in inside:
            if not own(one, one / SETTINGS):
                problems.append(f"{one}: its {SETTINGS} is a link that leads out of it")
                continue
            try:
                records.append(record(one))
            except (OSError, ValueError) as error:
                problems.append(f"cannot read {one}: {error}")
    if not records:
        raise DiffrlError("\n".join(problems) or "no run was named")
    return records, problems


def _inside(folder: Path) -> list[Path]:
    if not there(folder):
        return []
    links = [p for p in folder.glob(f"*/{SETTINGS}") if p.parent.is_symlink()]
    found = {p.parent.resolve(): p.parent for p in (*links, *folder.rglob(SETTINGS))}
    return sorted(p for p in found.values() if CHECKPOINTS not in p.relative_to(folder).parts)


def record(folder: Path) -> Record:
    """Return what a run's folder holds."""
    images = folder / IMAGES
    grids = sorted(
        (int(p.stem), p)
        for p in images.glob("*.png")
        if re.fullmatch(r"[0-9]{1,9}", p.stem) and own(folder, p)
    )
    last = images / "before-after.png"
    broken: list[str] = []
    environment = _shaped(folder, ENVIRONMENT, Environment, broken)
    metrics = tuple(read_metrics(folder)) if own(folder, folder / METRICS) else ()
    notices = tuple(read_notices(folder))
    broken += [*_torn(folder, METRICS, len(metrics)), *_torn(folder, NOTICES, len(notices))]
    return Record(
        folder=folder,
        settings=tuple(read_settings(folder / SETTINGS)),
        metrics=metrics,
        pictures=tuple(grids),
        before_after=last if last.is_file() and own(folder, last) else None,
        environment=environment or Environment(),
        evaluation=_shaped(folder, EVALUATION, Cells, broken),
        broken=tuple(broken),
        notices=notices,
    )


def _torn(folder: Path, name: str, read: int) -> list[str]:
    """Return how many lines of a file could not be read, if any."""
    path = folder / name
    lost = count_lines(path) - read if own(folder, path) else 0
    return [f"{path}: {lost} line{'s' if lost > 1 else ''} cannot be read; left out"] * (lost > 0)


def read_notices(folder: Path) -> list[Notice]:
    """Return what a run noticed of itself."""
    path = folder / NOTICES
    lines = read_lines(path) if own(folder, path) else []
    names = ("epoch", "source", "message", "action")
    return [Notice(*(one_line(str(line.get(name, "–"))) for name in names)) for line in lines]


def own(folder: Path, path: Path) -> bool:
    """Return whether a path below a run's folder stays there once its links are followed."""
    return path.resolve().is_relative_to(folder.resolve())


def read_settings(path: Path) -> list[Value]:
    """Return the values of a saved settings file with their origins, also of missing plugins."""
    table, found = "", []
    for line in path.read_text("utf-8").split("\n"):
        content, mark, origin = line.rpartition(MARK)
        content = (content if mark else origin).rstrip()
        if head := TABLE.fullmatch(content):
            table = f"{head['table']}."
        elif value := LINE.fullmatch(content):
            found.append(Value(f"{table}{value['key']}", value["value"], origin if mark else ""))
    return found


def _shaped(folder: Path, name: str, shape: type[Shape], broken: list[str]) -> Shape | None:
    """Return what a JSON file holds, if it is there and has the shape that the page needs."""
    path = folder / name
    if not path.is_file() or not own(folder, path):
        return None
    try:
        return shape.model_validate(read_object(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        broken.append(f"cannot read {path}: {where}: {first['msg'].lower()}")
    except ValueError as error:
        broken.append(f"cannot read {path}: {error}")
    return None
