"""Turns an algorithm, rewards, a preset and overrides into settings, or says all that is wrong.

Layers, lowest first: component defaults, recipe, preset, `--config`, flags, `--set`. Stages are
swapped first, then fields are set; every value remembers its origin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from diffrl import presets
from diffrl.errors import DiffrlError, SettingsError, one_line, shown
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
)
from diffrl.settings.resolved import Settings
from diffrl.settings.rewards import read_spec
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
    watch: Sequence[str] = (),
) -> Settings:
    """Return validated settings.

    Args:
        algo: name of a recipe.
        rewards: each a name, `package.module:function` or `http://host:port`, with `:weight` behind
            it if it is not 1, and `name=` before the latter two to call them so.
        preset: name of a preset.
        config: TOML file, or a mapping of the same shape.
        sets: `key=value` texts.
        flags: dotted keys to a value and the argument it came from.
        need_reward: whether no reward at all is a problem, where the reward predictor asks for one.
        watch: rewards, as above, to score with beside those that the preset watches.

    Raises:
        SettingsError: naming everything that is wrong at once.
        FitError: if the stages do not fit together.
    """
    problems: list[str] = []
    recipe = _try(problems, lambda: _recipe(algo))
    used, weights = _rewards(rewards, problems)
    content = _try(problems, lambda: presets.read(preset)) or {"model": {"ref": ""}}
    algos = [*recipe.tuned_like, algo] if recipe else [algo]
    items = from_preset(content, preset, algos, list(used))
    if config is not None:
        configured = _try(problems, lambda: from_config(config)) or []
        items += _without(configured, {"algo": algo, "preset": preset}, problems)
    set_items, malformed = from_sets(sets)
    items += [*weights, *from_flags(flags or {}), *set_items]
    items += _watched(items, watch, problems)
    draft = Draft(recipe, used).apply(items)
    draft.problems[:0] = [*problems, *malformed]
    return draft.settings(preset, need_reward and not any(rewards))


def _recipe(algo: str) -> Recipe:
    return registry().get("algorithm", algo).value


def _rewards(
    specs: Sequence[str], problems: list[str]
) -> tuple[dict[str, tuple[type[Reward], str]], list[Item]]:
    """Return the rewards that specs name, and items for the weights they give."""
    used: dict[str, tuple[type[Reward], str]] = {}
    weights: list[Item] = []
    for spec in specs:
        origin = one_line(f"--reward {spec}")
        try:
            found = read_spec(spec)
        except DiffrlError as error:
            problems += [f"{origin}: {line}" for line in getattr(error, "problems", [str(error)])]
            continue
        name = found.name
        if name in used:
            same = used[name][0] is found.reward
            advice = f"weigh it as {name}:2" if same else f"call one of them NAME={spec}"
            problems.append(f"{origin}: reward {name!r} is given twice; {advice}")
            continue
        used[name] = (found.reward, origin)
        if found.weight is not None:
            weights.append(Item(f"rewards.{name}.weight", found.weight, origin))
    return used, weights


def _watched(items: Sequence[Item], watch: Sequence[str], problems: list[str]) -> list[Item]:
    """Return one item that adds rewards to those that earlier items watch."""
    if not watch:
        return []
    before = [item.value for item in items if item.key in ("eval.watch", "watch")]
    if before and not isinstance(before[-1], (list, tuple)):
        return []  # which is told of as it stands
    kept = before[-1] if before else ()
    specs = list(dict.fromkeys([*map(str, kept), *watch]))
    named: dict[str, str] = {}
    for spec in specs:
        try:
            found = read_spec(spec)
        except DiffrlError:
            continue  # checks name it
        if found.weight is not None:
            problems.append(f"--watch {spec}: what is only watched has no weight")
        if (other := named.setdefault(found.name, spec)) != spec:
            problems.append(
                f"--watch {spec}: {other} is called {found.name!r}, too; call it NAME={spec}"
            )
    origin = " ".join(f"--watch {spec}" for spec in watch)
    return [Item("eval.watch", specs, origin)]


def _without(items: Sequence[Item], names: Mapping[str, str], problems: list[str]) -> list[Item]:
    """Return a config's items less `algo` and `preset`, which a saved settings file also holds."""
    for item in items:
        if item.key in names and item.value != names[item.key]:
            given = names[item.key]
            problems.append(f"{item.written} = {shown(item.value)}, but this run uses {given!r}")
    return [item for item in items if item.key not in names]


def _try(problems: list[str], read: Callable[[], T]) -> T | None:
    try:
        return read()
    except SettingsError as error:
        problems += error.problems
    except DiffrlError as error:
        problems.append(str(error))
    return None
