"""Settings as a TOML file that says where each value came from, and back again."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from diffrl import presets
from diffrl.errors import DiffrlError, PluginError, SettingsError, UnknownName, one_line
from diffrl.registry import registry
from diffrl.settings.absent import absent
from diffrl.settings.draft import Draft
from diffrl.settings.layers import Flags, Item, flatten, from_flags, from_preset, from_sets
from diffrl.settings.resolved import Settings
from diffrl.settings.rewards import read_saved, read_spec
from diffrl.settings.sections import SECTIONS
from diffrl.settings.target import DEFAULT
from diffrl.settings.toml import read, write_value
from diffrl.stages import STAGES

MARK = "  # "
END = "# end of the settings"
HEADER = "# Settings of a run, resolved. After # stands where a value comes from."


def dump(settings: Settings) -> str:
    """Return settings as TOML, one value a line, its origin as a comment behind it."""
    lines = [HEADER, f"algo = {write_value(settings.recipe.name)}"]
    lines += [f"preset = {write_value(settings.preset)}"]
    for path, header, values in tables(settings):
        origin = settings.origins.get(path) if path.startswith("rewards.") else None
        lines += ["", header + (f"{MARK}{origin}" if origin else "")]
        written = {name: f"{name} = {write_value(value)}" for name, value in values.items()}
        width = min(max(map(len, written.values()), default=0), 48)
        for name, text in written.items():
            at = path if name == "name" and path not in SECTIONS else f"{path}.{name}"
            origin = settings.origins.get(at)
            lines.append(f"{text:<{width}}{MARK}{origin}" if origin else text)
    return "\n".join([*lines, "", END]) + "\n"


def tables(settings: Settings) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield each stage, reward and section: its path, TOML header and values."""
    for slot, stage in settings.recipe.stages.items():
        yield slot, f"[{slot}]", {"name": stage.name, **_values(stage)}
    for used in settings.rewards:
        path = f"rewards.{used.reward.name}"
        yield path, f"[{path}]", {"weight": used.weight, **_values(used.reward)}
    for reward in settings.watched:
        path = f"rewards.{reward.name}"
        yield path, f"[{path}]", _values(reward)
    for name in SECTIONS:
        yield name, f"[{name}]", _values(getattr(settings, name))


def flat(settings: Settings) -> dict[str, str]:
    """Return every setting by its dotted key, as people write its value."""
    found = {"algo": settings.recipe.name, "preset": settings.preset}
    for path, _, values in tables(settings):
        found |= {f"{path}.{name}": write_value(value).strip('"') for name, value in values.items()}
    return found


def changed(before: Settings, now: Settings) -> list[str]:
    """Return what is set otherwise, as `key old → new`; how long a run trains is left out."""
    old, new = flat(before), flat(now)
    keys = [key for key in dict.fromkeys([*old, *new]) if key != "train.epochs"]
    return [
        f"{key} {old.get(key, 'none')} → {new.get(key, 'none')}"
        for key in keys
        if old.get(key) != new.get(key)
    ]


def load(path: Path, sets: Sequence[str] = (), flags: Flags | None = None) -> Settings:
    """Return the settings that `dump` wrote to a file, with overrides.

    Raises:
        SettingsError: if the file cannot be read or is cut off, or something in it is no longer
            installed; then with the plugins that the run had and this process lacks.
    """
    try:
        return _loaded(path, sets, flags)
    except SettingsError as error:
        if not (hint := absent(path)) or ((sets or flags) and _loads(path)):
            raise
        raise SettingsError([*error.problems, *hint]) from error


def _loads(path: Path) -> bool:
    """Return whether a saved file alone can be read, without overrides."""
    try:
        return bool(_loaded(path, (), None))
    except SettingsError:
        return False


def _loaded(path: Path, sets: Sequence[str], flags: Flags | None) -> Settings:
    content = read(path, str(path))
    if not path.read_text("utf-8").rstrip().endswith(END):
        raise SettingsError([f"{path}: cut off; expected {END!r} as its last line"])
    problems: list[str] = []
    try:
        recipe = registry().get("algorithm", str(content.pop("algo", ""))).value
    except UnknownName as error:
        raise SettingsError([f"{path}: {error}"]) from error
    preset = str(content.pop("preset", ""))
    origins = _origins(path.read_text(encoding="utf-8"))
    rewards = {}
    given = content.get("rewards")
    tabled: dict[str, Any] = given if isinstance(given, dict) else {}
    for name in list(tabled):
        if not isinstance(tabled[name], dict):
            problems.append(f"{path}: rewards.{one_line(name)}: expected a table of settings")
            del tabled[name]
            continue
        try:
            found = read_saved(name, tabled[name])
        except UnknownName as error:
            problems.append(f"{path}: {error}")
            del tabled[name]
            continue
        if "weight" in tabled[name]:  # the others are only watched
            rewards[name] = (found, origins.get(f"rewards.{name}", str(path)))
    items = [
        Item(key, value, origins.get(key, str(path)), _watched(key, rewards), layer=str(path))
        for key, value in flatten(content)
    ]
    set_items, malformed = from_sets(sets)
    later = [*from_flags(flags or {}), *set_items]
    items = [*_of_newly_watched(later, tabled, preset), *_that_outlive_swaps(items, later)]
    draft = Draft(recipe, rewards).apply([*items, *later])
    draft.problems[:0] = [*problems, *malformed]
    return draft.settings(preset)


def _that_outlive_swaps(items: Sequence[Item], later: Sequence[Item]) -> list[Item]:
    """Return a run's items without what its stages alone brought, where others take their places.

    Those are defaults, and values of the recipe and of its presets; what somebody asked for holds
    for the new stage, too, if it has such a field, and so does what stages keep (`Component.kept`).
    """
    before = {item.key: item.value for item in items if item.key in STAGES}
    swaps = {item.key: str(item.value) for item in later if item.key in STAGES}
    found = []
    for item in items:
        slot, _, field = item.key.partition(".")
        if not field or slot not in swaps or swaps[slot] == before.get(slot):
            found.append(item)
            continue
        entry = registry().components(slot).get(swaps[slot])
        kept = entry is not None and field in entry.value.kept
        own = (
            item.origin == DEFAULT or item.origin.startswith("recipe ") or ", algo " in item.origin
        )
        if kept or not own:
            found.append(replace(item, soft=True))
    return found


def _of_newly_watched(later: Sequence[Item], known: Collection[str], preset: str) -> list[Item]:
    """Return what a run's preset says of rewards that it begins to watch."""
    watched = [item.value for item in later if item.key in ("eval.watch", "watch")]
    if not watched or not isinstance(watched[-1], list | tuple) or preset not in presets.names():
        return []
    names = []
    for spec in watched[-1]:
        with contextlib.suppress(DiffrlError):  # checks name it
            names.append(read_spec(str(spec)).name)
    items = from_preset(presets.read(preset), preset, [], names)
    keys = tuple(f"rewards.{name}." for name in names if name not in known)
    return [item for item in items if keys and item.key.startswith(keys)]


def _watched(key: str, trained: Mapping[str, object]) -> bool:
    """Return whether a key is of a reward that is not trained on, and may be watched no longer."""
    first, _, rest = key.partition(".")
    return first == "rewards" and rest.partition(".")[0] not in trained


def _values(model: BaseModel) -> dict[str, Any]:
    try:
        return model.model_dump(mode="json")
    except PydanticSerializationError as error:
        raise PluginError(
            f"{type(model).__name__} has a field that cannot be written to a file "
            f"({one_line(str(error))}); use numbers, texts, or lists and tables of them"
        ) from error


def _origins(text: str) -> dict[str, str]:
    """Return the comment behind each line, by the key that the line sets."""
    found, table = {}, ""
    for line in text.split("\n"):  # no other character ends a line of TOML
        code, mark, origin = line.rpartition(MARK)
        if not mark:
            code = line
        if code.startswith("["):
            table = code.strip().strip("[]")
            key = table
        elif table and "=" in code:
            name = code.partition("=")[0].strip()
            key = table if name == "name" and table not in SECTIONS else f"{table}.{name}"
        else:
            continue
        if mark:
            found[key] = origin
    return found
