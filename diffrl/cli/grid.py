"""The grid of an ablation: every combination of values, with every seed, checked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha1
from itertools import product
from pathlib import Path

from diffrl import shelf
from diffrl.errors import SettingsError
from diffrl.settings import Settings
from diffrl.settings.resolve import resolve

LONGEST = 150
"""Characters of a cell's folder name, of the 255 that file systems take."""


@dataclass(frozen=True)
class Plan:
    """What is varied, and what is common to all runs; `algo` may be varied too.

    With the digest of `config`'s content, a file that was edited makes another plan.
    """

    algo: str | None
    rewards: list[str]
    preset: str
    config: str | None
    sets: list[str]
    vary: list[str]
    seeds: int
    epochs: int | None
    config_digest: str | None = None


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    sets: tuple[str, ...]
    algo: str
    seed: int
    folder: Path
    epochs: int

    @property
    def name(self) -> str:
        """What is special about it, without the seed."""
        return " ".join(self.sets) or "as it is"

    @property
    def settings(self) -> list[str]:
        """What it varies but for the algorithm."""
        return split(self.sets)[1]

    def finished(self) -> bool:
        """Whether its last epoch is saved."""
        return shelf.finished(self.folder, self.epochs)


def usual_folder(plan: Plan) -> Path:
    """Return the folder of a plan, the same one for the same plan, so that it is continued."""
    rewards = "+".join(re.sub(r"[^A-Za-z0-9.-]+", "-", r).strip("-") for r in plan.rewards)
    code = sha1(json.dumps(asdict(plan), sort_keys=True).encode()).hexdigest()[:8]
    return Path("ablations") / f"{plan.algo or 'algorithms'}-{rewards or 'data'}-{code}"


def grid(plan: Plan, folder: Path) -> Iterator[Cell]:
    """Yield every combination of values with every seed, all of them checked first."""
    from diffrl.trainer.preflight import preflight

    axes = [varied(text) for text in plan.vary]
    refuse_repeated(axes)
    if (plan.algo is None) != any(axis[0].startswith("algo=") for axis in axes):
        raise SettingsError(["name algorithms either with --algo or with --vary algo=ONE,OTHER"])
    problems: list[str] = []
    found: list[Cell] = []
    first: list[tuple[Settings, str]] = []
    for combination in product(*axes):
        try:
            settings = resolved(plan, combination)
            preflight(settings, None)
        except SettingsError as error:
            problems += [f"{' '.join(combination)}: {line}" for line in error.problems]
            continue
        named, bare = " ".join(combination), replace(settings, origins={})
        if other := next((name for one, name in first if one == bare), None):
            problems.append(f"{named}: the same settings as those of {other}; leave one out")
            continue
        first.append((bare, named))
        for number in range(plan.seeds):
            seed = settings.train.seed + number
            place = folder / "runs" / slug(combination) / f"seed-{seed}"
            algo = settings.recipe.name
            found.append(Cell(combination, algo, seed, place, settings.train.epochs))
    problems += twins(found)
    if problems:
        raise SettingsError(list(dict.fromkeys(problems)))
    return iter(found)


def twins(cells: Sequence[Cell]) -> list[str]:
    """Return the cells that would share a folder, one line each."""
    first: dict[Path, Cell] = {}
    return [
        f"{cell.name}: another cell, {other.name}, has the same folder; leave one out"
        for cell in cells
        if (other := first.setdefault(cell.folder, cell)) is not cell
    ]


def refuse_repeated(axes: Sequence[Sequence[str]]) -> None:
    """Refuse axes of one key, of which the last would silently win.

    Raises:
        SettingsError: with the one axis that says it.
    """
    values: dict[str, list[str]] = {}
    for axis in axes:
        key = axis[0].partition("=")[0]
        values.setdefault(key, []).extend(one.partition("=")[2] for one in axis)
    keys = [axis[0].partition("=")[0] for axis in axes]
    found = [
        f"--vary {key}=…: {key} is varied {keys.count(key)} times; write it once, "
        f"--vary {key}={','.join(values[key])}"
        for key in values
        if keys.count(key) > 1
    ]
    if found:
        raise SettingsError(found)


def varied(text: str) -> list[str]:
    """Return `key=value` for each value of `key=value,value`; commas in brackets do not split.

    Raises:
        SettingsError: if it is something else.
    """
    key, equals, values = text.partition("=")
    parts = [v.strip() for v in re.split(r",(?![^\[]*\])", values)]
    if not (key.strip() and equals and all(parts)):
        raise SettingsError([f"--vary {text}: expected KEY=VALUE,VALUE, such as gamma=0.99,0.9"])
    return [f"{key.strip()}={value}" for value in parts]


def split(combination: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the algorithm that a combination names, if it names one, and its settings."""
    named = [one.removeprefix("algo=") for one in combination if one.startswith("algo=")]
    return (named[-1] if named else None), [o for o in combination if not o.startswith("algo=")]


def resolved(plan: Plan, combination: Sequence[str]) -> Settings:
    """Return a cell's settings, but for the seed.

    Raises:
        SettingsError: naming everything that is wrong.
    """
    algo, own = split(combination)
    flags = (
        {} if plan.epochs is None else {"train.epochs": (plan.epochs, f"--epochs {plan.epochs}")}
    )
    config = None if plan.config is None else Path(plan.config)
    sets = [*plan.sets, *own]
    return resolve(algo or plan.algo or "", plan.rewards, plan.preset, config, sets, flags)


def slug(combination: Sequence[str]) -> str:
    """Return a folder name, with a digest where it cannot say all that tells a cell from others."""
    plain = ",".join(combination)
    name = re.sub(r"[^A-Za-z0-9=.+-]+", "_", plain)
    if len(name) > LONGEST or not plain.isascii():
        name = f"{name[:LONGEST]}-{sha1(plain.encode()).hexdigest()[:8]}"
    return name or "as-it-is"


def digest(config: Path | None) -> str | None:
    """Return a digest of a file's content; None of no file, or of one that cannot be read."""
    try:
        return sha1(config.read_bytes()).hexdigest() if config else None
    except OSError:
        return None  # which resolving says in its own words
