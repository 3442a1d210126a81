"""Where values come from: preset, config file, flags and `--set`, each as a list of items.

A later layer wins. Every item remembers its origin, which is what messages and `diffrl show` print.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffrl.errors import one_line
from diffrl.settings.toml import parse_value, read
from diffrl.stages import STAGES

Flags = Mapping[str, tuple[Any, str]]

FLAGS = {
    "model": "model.ref",
    "prompts": "train.prompts",
    "epochs": "train.epochs",
    "seed": "train.seed",
    "device": "model.device",
    "precision": "model.precision",
}
"""Options of `diffrl train` and arguments of `diffrl.train`, by the setting they stand for."""


def preferences(path: str | Path, origin: str) -> dict[str, tuple[Any, str]]:
    """Return what `--preferences` stands for: pairs and their prompts come from a file."""
    ref = str(Path(path).absolute())
    settings = {
        "sampler": "stored",
        "sampler.file": ref,
        "reward_predictor": "labels",
        "train.prompts": ref,
    }
    return {key: (value, origin) for key, value in settings.items()}


@dataclass(frozen=True)
class Item:
    """One value for one key.

    `key` is `slot`, `slot.field`, `rewards.name.field`, `section.field` or a bare field. A `soft`
    item is skipped where the stage or reward it is for has no such field. `layer` names what it
    came with, where its origin does not: a run's file, with the origins of an earlier day. `algo`
    names the algorithm for whose own stages a preset's value is.
    """

    key: str
    value: Any
    origin: str
    soft: bool = False
    layer: str = ""
    algo: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "origin", one_line(self.origin))

    @property
    def written(self) -> str:
        """The item as messages quote it."""
        if self.origin.startswith("--set "):
            return self.origin
        return f"{self.origin}: {one_line(self.key)}"


def from_preset(
    content: Mapping[str, Any], name: str, algos: Sequence[str], rewards: Sequence[str]
) -> list[Item]:
    """Return a preset's items, then those for these rewards and algorithms, the nearest last."""
    always = {k: v for k, v in content.items() if k not in {"description", "when"}}
    items = [Item(k, v, f"preset {name}", soft=True) for k, v in flatten(always)]
    when = content.get("when", {})
    for kind, wanted in [("reward", rewards), ("algo", algos)]:
        for case in wanted:
            origin = f"preset {name}, {kind} {case}"
            for key, value in flatten(when.get(kind, {}).get(case, {})):
                algo = case if kind == "algo" else ""
                items.append(Item(key, value, origin, soft=True, algo=algo))
    return items


def from_config(config: Path | str | Mapping[str, Any]) -> list[Item]:
    """Return the items of a TOML file, or of a mapping of the same shape.

    Raises:
        SettingsError: if the file cannot be read or is not TOML.
    """
    if isinstance(config, Mapping):
        return [Item(k, v, "config") for k, v in flatten(config)]
    path = Path(config)
    content = read(path, f"--config {path}")
    return [Item(k, v, f"--config {path}") for k, v in flatten(content)]


def from_sets(sets: Sequence[str]) -> tuple[list[Item], list[str]]:
    """Return the items of `--set key=value` arguments, and one problem for each malformed one."""
    items, problems = [], []
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            wanted = "expected key=value, for example --set loss.clip=2e-4"
            problems.append(f"--set {one_line(text)}: {wanted}")
            continue
        items.append(Item(_snake(key.strip()), parse_value(value.strip()), f"--set {text}"))
    return items, problems


def from_flags(flags: Flags) -> list[Item]:
    """Return the items of command-line flags such as `--epochs 5`."""
    return [Item(key, value, origin) for key, (value, origin) in flags.items()]


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values; a slot's `name` becomes the value of the slot itself."""
    for key, value in content.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and (path == "rewards" or not prefix or prefix == "rewards."):
            yield from flatten(value, f"{path}.")
        elif key == "name" and prefix[:-1] in STAGES:
            yield prefix[:-1], value
        else:
            yield path, value


def _snake(key: str) -> str:
    """Return a key with the dashes of its slot and field as underscores; reward names keep them."""
    parts = key.split(".")
    for at in {0, len(parts) - 1} if parts[0] != "rewards" or len(parts) > 2 else {0}:
        parts[at] = parts[at].replace("-", "_")
    return ".".join(parts)
