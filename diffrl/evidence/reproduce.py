"""Reproduction cards: settings, what they gave, and how far another machine may be off."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffrl.builtin.rewards.function import FunctionReward
from diffrl.builtin.rewards.served import ServedReward
from diffrl.errors import DiffrlError, SettingsError, UnknownName, quoted, shown
from diffrl.folder import SETTINGS, environment, read_metrics, read_object
from diffrl.paths import there
from diffrl.settings import Settings, toml
from diffrl.settings.absent import ENVIRONMENT
from diffrl.settings.resolve import load, resolve
from diffrl.settings.saved import tables

HERE = Path(__file__).parent / "cards"
ANY = "any"
"""Stands for a seed where the figures are of no seed in particular."""

KEYS = {"about", "source", "minutes", "processes", "run", "expected"}
RUN_KEYS = {"algo", "rewards", "preset", "epochs", "sets"}
"""What a card and its [run] may hold."""

PARTS = (
    "recipe", "rewards", "watched", "model", "adapter", "optimizer", "train", "eval", "watchdog",
)  # fmt: skip
"""Settings by which a run is that of a card; those of speed and checkpoints are anybody's."""


@dataclass(frozen=True)
class Figure:
    """A metric at the end of an epoch, and how far off it may be."""

    epoch: int
    metric: str
    value: float
    tolerance: float


@dataclass(frozen=True)
class Card:
    """What was found once, and what must be found again.

    Args:
        name: of the card.
        about: one line.
        source: where the figures come from.
        minutes: that it took there; 0: not known.
        processes: that it must be run with.
        run: algo, rewards, preset, epochs and sets.
        expected: figures by seed.
        home: the folder of its file; None: diffrl brings it.
    """

    name: str
    about: str
    source: str
    minutes: float
    processes: int
    run: Mapping[str, Any]
    expected: Mapping[str, tuple[Figure, ...]]
    home: Path | None = None

    @property
    def seeds(self) -> list[int]:
        """The seeds of which figures are known; the first is the usual one."""
        return [int(seed) for seed in self.expected if seed != ANY] or [42]

    def figures(self, seed: int) -> tuple[Figure, ...]:
        """Return the figures of a seed.

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
    """A figure beside what was found; `found` is None where there is no such metric."""

    figure: Figure
    found: float | None

    @property
    def passed(self) -> bool:
        """Whether what was found is near enough."""
        if self.found is None:
            return False
        return abs(self.found - self.figure.value) <= self.figure.tolerance


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
    if not there(path):
        raise UnknownName("card", name, [p.stem for p in HERE.glob("*.toml")])
    content = toml.read(path, str(path))
    try:
        return _read(path.stem, content, None if path.parent == HERE else path.parent)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DiffrlError(
            f"{path}: not a reproduction card ({type(error).__name__}: {error}); expected about, "
            f"source, minutes, [run] and [expected.SEED.EPOCH] with METRIC = [VALUE, TOLERANCE]"
        ) from None


def _read(name: str, content: Mapping[str, Any], home: Path | None) -> Card:
    run = dict(content["run"])
    if unknown := [*(content.keys() - KEYS), *(f"run.{key}" for key in run.keys() - RUN_KEYS)]:
        raise ValueError(f"nothing is called {', '.join(sorted(unknown))}")
    last = int(run["epochs"])
    for words in (run["rewards"], run.get("sets", [])):
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError(
                f"expected a list of texts as rewards and as sets, found {shown(words)}"
            )
    expected = {}
    for seed, epochs in content["expected"].items():
        figures = tuple(
            Figure(int(epoch), metric, float(value), float(tolerance))
            for epoch, metrics in epochs.items()
            for metric, (value, tolerance) in metrics.items()
        )
        if seed != ANY:
            int(seed)
        if not figures or any(not 0 < f.epoch <= last for f in figures):
            raise ValueError(f"expected figures of seed {seed}, of epochs from 1 to {last}")
        expected[seed] = figures
    if not expected or not {"algo", "rewards", "preset"} <= set(run):
        raise ValueError("expected figures, and algo, rewards and preset in [run]")
    return Card(
        name=name,
        about=str(content["about"]),
        source=str(content["source"]),
        minutes=float(content["minutes"]),
        processes=int(content.get("processes", 1)),
        run=run,
        expected=expected,
        home=home,
    )


def settings_of(one: Card, seed: int) -> Settings:
    """Return what a card runs.

    Raises:
        SettingsError: if something of it is not installed, or a card from a file would run code,
            ask a server, or read what lies elsewhere.
    """
    sets = [_from_home(text, one.home) for text in one.run.get("sets", ())]
    settings = resolve(
        str(one.run["algo"]),
        list(one.run["rewards"]),
        str(one.run["preset"]),
        sets=[*sets, f"train.seed={seed}", f"train.epochs={one.run['epochs']}"],
    )
    if one.home is not None and (found := list(_reaching_out(settings, one.home))):
        raise SettingsError(found, f"the card {one.name!r} may not do this; train it yourself")
    return settings


def _from_home(text: str, home: Path | None) -> str:
    """Return a card's `KEY=VALUE` with a value that names a file beside the card made whole."""
    key, equals, value = text.partition("=")
    plain = value.strip().strip("\"'")
    beside = home and plain and there(home / plain)
    return f"{key}={beside.resolve()}" if beside and equals else text


def _reaching_out(settings: Settings, home: Path) -> Iterator[str]:
    """Yield what of a stranger's settings would reach out of the card's own folder."""
    for reward in (*(w.reward for w in settings.rewards), *settings.watched):
        if isinstance(reward, FunctionReward):
            yield f"reward {reward.name!r} would run {reward.path} of this machine"
        elif isinstance(reward, ServedReward):
            yield f"reward {reward.name!r} would send pictures to {reward.url}"
    for path, _, values in tables(settings):
        for name, value in values.items():
            for text in value if isinstance(value, list) else [value]:
                own = settings.origins.get(f"{path}.{name}", "").startswith("--set")
                if isinstance(text, str) and _leaves(text, home, own):
                    yield f"{path}.{name} = {text!r} lies outside of {home}"


def _leaves(text: str, home: Path, own: bool) -> bool:
    """Return whether a text is a path out of a folder; of the card's `own`, also a bare name."""
    path = Path(text)
    named = path.anchor or text.startswith("~") or ".." in path.parts
    if not (named or (own and text and there(path))):
        return False
    try:
        return not path.expanduser().resolve().is_relative_to(home.resolve())
    except (RuntimeError, ValueError):  # the home of nobody, a null byte
        return True


def reproduce(
    one: Card, seed: int, folder: Path, tell: Callable[[str], None] = lambda _: None
) -> list[Check]:
    """Run a card, or what is left of it, and return its checks.

    Args:
        one: the card.
        seed: of the run.
        folder: of the run. A run of this card that is there already goes on, or counts as it is.
        tell: is told if it does.

    Raises:
        DiffrlError: if the folder holds another run, or one of other code, or the run cannot be
            made.
    """
    from diffrl.trainer import Run, run

    figures, settings = one.figures(seed), settings_of(one, seed)
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != one.processes:
        raise DiffrlError(
            f"the card {one.name!r} is of {one.processes} processes, and this is {started}: "
            f"accelerate launch --num_processes {one.processes} -m diffrl reproduce "
            f"{quoted(one.home / f'{one.name}.toml' if one.home else one.name)} --seed {seed} "
            f"--output {quoted(folder)}"
        )
    if not (folder / SETTINGS).is_file():
        run(settings, output=folder, live=True)
    elif not _same(load(folder / SETTINGS), settings):
        raise DiffrlError(f"{folder} holds another run than the card {one.name!r}; choose another")
    elif apart := _other_code(folder):
        raise DiffrlError(
            f"{folder} was run with other code than this ({apart}), so it says nothing about this; "
            f"remove it, or give another --output"
        )
    elif Run(folder).epoch < settings.train.epochs:
        tell(f"{folder}: begun before; goes on")
        run(settings, resume=folder, live=True)
    else:
        commit = environment()["commit"]
        at = f"commit {commit}" if commit else "the same versions"
        tell(f"{folder}: run before, at {at}; not run again")
    lines = {int(m["epoch"]): m for m in read_metrics(folder)}
    return [Check(f, _found(lines, f)) for f in figures]


def _same(one: Settings, other: Settings) -> bool:
    return all(getattr(one, part) == getattr(other, part) for part in PARTS)


def _other_code(folder: Path) -> str:
    """Return, in words, which packages were others when a run began, and which commit of diffrl."""
    try:
        then = read_object(folder / ENVIRONMENT)
    except ValueError as error:
        return f"cannot read {ENVIRONMENT}: {error}"
    now = environment()
    known = then.get("packages")
    packages = known if isinstance(known, dict) else {}
    each = [(name, packages.get(name), version) for name, version in now["packages"].items()]
    each.append(("commit", then.get("commit"), now["commit"]))
    return ", ".join(f"{name} {old} and not {new}" for name, old, new in each if old != new)


def _found(lines: Mapping[int, Mapping[str, Any]], figure: Figure) -> float | None:
    value = lines.get(figure.epoch, {}).get(figure.metric)
    return None if value is None else float(value)
