"""Reproduction cards: settings, what they gave, and how far another machine may be off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffrl.errors import DiffrlError, UnknownName
from diffrl.folder import METRICS, SETTINGS, read_metrics
from diffrl.settings import Settings, toml
from diffrl.settings.resolve import load, resolve

HERE = Path(__file__).parent / "cards"
ANY = "any"
"""Stands for a seed where the figures are of no seed in particular."""


@dataclass(frozen=True)
class Card:
    """What was found once, and what must be found again.

    Args:
        name: of the card.
        about: one line.
        source: where the figures come from.
        minutes: that it took there; 0: not known.
        run: algo, rewards, preset, epochs and sets.
        tolerance: largest difference from a figure, by epoch.
        expected: figures by seed, epoch and metric.
    """

    name: str
    about: str
    source: str
    minutes: float
    run: Mapping[str, Any]
    tolerance: Mapping[int, float]
    expected: Mapping[str, Mapping[int, Mapping[str, float]]]

    @property
    def seeds(self) -> list[int]:
        """The seeds of which figures are known; the first is the usual one."""
        return [int(seed) for seed in self.expected if seed != ANY] or [42]

    def figures(self, seed: int) -> Mapping[int, Mapping[str, float]]:
        """Return the figures of a seed by epoch.

        Raises:
            DiffrlError: if none are known.
        """
        found = self.expected.get(str(seed), self.expected.get(ANY))
        if found is None:
            known = ", ".join(map(str, self.seeds))
            raise DiffrlError(f"--seed {seed}: the card {self.name!r} knows seeds {known}")
        return found


@dataclass(frozen=True)
class Check:
    """One figure of a card beside what was found; `found` is None where there is no such metric."""

    metric: str
    epoch: int
    expected: float
    tolerance: float
    found: float | None

    @property
    def passed(self) -> bool:
        """Whether what was found is near enough."""
        return self.found is not None and abs(self.found - self.expected) <= self.tolerance


def names() -> list[str]:
    """Return the cards that diffrl brings, the quickest first."""
    cards = [card(p.stem) for p in HERE.glob("*.toml")]
    return [c.name for c in sorted(cards, key=lambda c: (not c.minutes, c.minutes, c.name))]


def card(name: str) -> Card:
    """Return a card by its name, or from a TOML file.

    Raises:
        UnknownName: with the nearest names.
        DiffrlError: if a file is no card.
    """
    path = Path(name) if name.endswith(".toml") else HERE / f"{name}.toml"
    if not path.is_file():
        raise UnknownName("card", name, [p.stem for p in HERE.glob("*.toml")])
    content = toml.read(path, str(path))
    try:
        return Card(
            name=path.stem,
            about=str(content["about"]),
            source=str(content["source"]),
            minutes=float(content["minutes"]),
            run=dict(content["run"]),
            tolerance={int(e): float(v) for e, v in content["tolerance"].items()},
            expected={
                seed: {int(e): dict(figures) for e, figures in epochs.items()}
                for seed, epochs in content["expected"].items()
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DiffrlError(
            f"{path}: not a reproduction card ({type(error).__name__}: {error}); expected about, "
            f"source, minutes, [run], [tolerance] and [expected.SEED.EPOCH]"
        ) from None


def settings_of(one: Card, seed: int) -> Settings:
    """Return what a card runs.

    Raises:
        SettingsError: if something of it is not installed.
    """
    return resolve(
        str(one.run["algo"]),
        list(one.run["rewards"]),
        str(one.run["preset"]),
        sets=[*one.run.get("sets", ()), f"train.seed={seed}", f"train.epochs={one.run['epochs']}"],
    )


def reproduce(one: Card, seed: int, folder: Path) -> list[Check]:
    """Run a card, or what is left of it, and return its checks.

    Args:
        one: the card.
        seed: of the run.
        folder: of the run. A run of this card that is there already goes on, or counts as it is.

    Raises:
        DiffrlError: if the folder holds another run, or the run cannot be made.
    """
    from diffrl.trainer import run

    figures, settings = one.figures(seed), settings_of(one, seed)
    if not (folder / SETTINGS).is_file():
        run(settings, output=folder, live=True)
    elif not _same(load(folder / SETTINGS), settings):
        raise DiffrlError(f"{folder} holds another run than the card {one.name!r}; choose another")
    elif _epochs(folder) < settings.train.epochs:
        run(settings, resume=folder, live=True)
    lines = {int(m["epoch"]): m for m in read_metrics(folder)}
    return [
        Check(metric, epoch, float(value), one.tolerance[epoch], _figure(lines, epoch, metric))
        for epoch, expected in figures.items()
        for metric, value in expected.items()
    ]


def _same(one: Settings, other: Settings) -> bool:
    return (one.recipe, one.rewards, one.model, one.optimizer, one.train) == (
        other.recipe,
        other.rewards,
        other.model,
        other.optimizer,
        other.train,
    )


def _epochs(folder: Path) -> int:
    lines = read_metrics(folder) if (folder / METRICS).is_file() else []
    return int(lines[-1]["epoch"]) if lines else -1


def _figure(lines: Mapping[int, Mapping[str, Any]], epoch: int, metric: str) -> float | None:
    value = lines.get(epoch, {}).get(metric)
    return None if value is None else float(value)
