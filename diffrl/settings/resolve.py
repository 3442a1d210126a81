"""Turns an algorithm, rewards, a preset and overrides into settings, or says all that is wrong.

Layers, lowest first: component defaults, recipe, preset, `--config`, flags, `--set`. Stages are
swapped first, then fields are set; every value remembers its origin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from diffrl import presets
from diffrl.errors import DiffrlError, SettingsError, UnknownName
from diffrl.recipe import Recipe
from diffrl.registry import registry
from diffrl.settings.draft import Draft
from diffrl.settings.layers import (
    Flags,
    Item,
    from_config,
    from_flags,
    from_preset,
    from_sets,
    one_line,
)
from diffrl.settings.resolved import Settings
from diffrl.settings.saved import dump, load
from diffrl.stages import Reward

__all__ = ["dump", "load", "resolve"]

T = TypeVar("T")


def resolve(
    algo: str,
    rewards: Sequence[str],
    preset: str = "emoji",
    config: Path | Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    flags: Flags | None = None,
    need_reward: bool = True,
) -> Settings:
    """Return validated settings.

    Args:
        algo: name of a recipe.
        rewards: each `name` or `name:weight`.
        preset: name of a preset.
        config: TOML file, or a mapping of the same shape.
        sets: `key=value` texts.
        flags: dotted keys to a value and the argument it came from.
        need_reward: whether no reward at all is a problem.

    Raises:
        SettingsError: naming everything that is wrong at once.
        FitError: if the stages do not fit together.
        DuplicateName: if two plugins claim one name.
    """
    registry().refuse_duplicates()
    problems: list[str] = []
    recipe = _try(problems, lambda: _recipe(algo))
    used, weights = _rewards(rewards, need_reward, problems)
    content = _try(problems, lambda: presets.read(preset)) or {"model": {"ref": ""}}
    items = from_preset(content, preset, algo, list(used))
    if config is not None:
        configured = _try(problems, lambda: from_config(config)) or []
        items += _without(configured, {"algo": algo, "preset": preset}, problems)
    set_items, malformed = from_sets(sets)
    draft = Draft(recipe, used).apply([*items, *weights, *from_flags(flags or {}), *set_items])
    draft.problems[:0] = [*problems, *malformed]
    return draft.settings(preset)


def _recipe(algo: str) -> Recipe:
    return registry().get("algorithm", algo).value


def _rewards(
    specs: Sequence[str], needed: bool, problems: list[str]
) -> tuple[dict[str, tuple[type[Reward], str]], list[Item]]:
    """Return the rewards that specs name, and items for the weights they give."""
    used: dict[str, tuple[type[Reward], str]] = {}
    weights: list[Item] = []
    if needed and not specs:
        known = ", ".join(registry().components("reward"))
        problems.append(f"no reward to train on; add --reward NAME. Known: {known}.")
    for spec in specs:
        name, colon, weight = spec.partition(":")
        origin = one_line(f"--reward {spec}")
        try:
            found = registry().get("reward", name).value
        except UnknownName as error:
            problems.append(f"{origin}: {error}")
            continue
        if name in used:
            problems.append(f"{origin}: reward {name!r} is given twice; weigh it as {name}:2")
            continue
        used[name] = (found, origin)
        if colon:
            weights.append(Item(f"rewards.{name}.weight", weight, origin))
    return used, weights


def _without(items: Sequence[Item], names: Mapping[str, str], problems: list[str]) -> list[Item]:
    """Return a config's items less `algo` and `preset`, which a saved settings file also holds."""
    for item in items:
        if item.key in names and item.value != names[item.key]:
            given = names[item.key]
            problems.append(f"{item.written} = {item.value!r}, but this run uses {given!r}")
    return [item for item in items if item.key not in names]


def _try(problems: list[str], read: Callable[[], T]) -> T | None:
    try:
        return read()
    except SettingsError as error:
        problems += error.problems
    except DiffrlError as error:
        problems.append(str(error))
    return None
