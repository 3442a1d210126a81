"""What `--reward` and `--watch` may name: a registered reward, a function, or a server."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from diffrl import presets
from diffrl.builtin.rewards.function import PATH, FunctionReward, function_reward
from diffrl.builtin.rewards.served import URL, ServedReward, served_reward
from diffrl.errors import SettingsError, UnknownName
from diffrl.registry import registry
from diffrl.settings.layers import Item, from_preset, from_sets
from diffrl.settings.target import Target
from diffrl.stages import Reward

ALIAS = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*)=(.+)")
WEIGHT = re.compile(r"(.+):([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
FORMS = "a name, package.module:function or http://host:port"


@dataclass(frozen=True)
class Named:
    """A reward class and the weight that was written behind it, if any."""

    reward: type[Reward]
    weight: str | None = None

    @property
    def name(self) -> str:
        """What settings and metrics call it."""
        return self.reward.name


def read_spec(spec: str) -> Named:
    """Return what `NAME[:weight]` names; also `NAME=module:function` and `NAME=http://…`.

    Raises:
        UnknownName: if no reward is registered under that name.
        DuplicateName: if two are.
        SettingsError: if a name is given to what has one, or to nothing.
    """
    alias = ALIAS.fullmatch(spec)
    name, rest = alias.groups() if alias else (None, spec)
    if found := _open_form(rest, name):
        return found
    if weighted := WEIGHT.fullmatch(rest):
        ref, weight = weighted.groups()
        if found := _open_form(ref, name):
            return Named(found.reward, weight)
    if alias:
        raise SettingsError([f"{spec}: only {FORMS.partition(', ')[2]} can be given a name"])
    plain, colon, weight = rest.partition(":")
    return Named(registry().get("reward", plain).value, weight if colon else None)


def same(one: type[BaseModel], other: type[BaseModel]) -> bool:
    """Return whether two reward classes stand for one: registered, or of one function or server."""
    return one is other or _comes_from(one) == _comes_from(other) is not None


def _comes_from(reward: type[BaseModel]) -> tuple[str, object] | None:
    if not issubclass(reward, FunctionReward | ServedReward):
        return None
    field = "path" if issubclass(reward, FunctionReward) else "url"
    return field, reward.model_fields[field].default


def read_saved(name: str, table: dict[str, object]) -> type[Reward]:
    """Return the reward of a saved run: registered, or one that says where it comes from.

    Raises:
        UnknownName: if it is neither.
    """
    try:
        return registry().get("reward", name).value
    except UnknownName:
        for field, form, make in (("path", PATH, function_reward), ("url", URL, served_reward)):
            if isinstance(given := table.get(field), str) and form.fullmatch(given):
                made = make(given, name)
                if set(table) <= {*made.model_fields, "weight"}:  # else it was another's
                    return made
        raise


def _open_form(ref: str, name: str | None) -> Named | None:
    """Return the reward of a function or a server, if that is what a reference looks like.

    Raises:
        SettingsError: if it would be called as a registered reward is.
    """
    known = registry().components("reward")
    if URL.fullmatch(ref):
        found = served_reward(ref, name)
    elif PATH.fullmatch(ref) and ref.partition(":")[0] not in known:
        found = function_reward(ref, name)
    elif ref.startswith(("http://", "https://")) and not WEIGHT.fullmatch(ref):
        raise SettingsError([f"{ref}: expected http://host:port, without user, query or secrets"])
    else:
        return None
    if found.name in known:
        raise SettingsError(
            [f"{ref}: {found.name!r} is a registered reward; call it something else: mine={ref}"]
        )
    return Named(found)


def chosen(spec: str, preset: str, sets: Sequence[str]) -> Reward:
    """Return a reward with the settings that a preset and `--set` give it.

    Raises:
        SettingsError: naming every setting that is wrong, or a weight, which it cannot have.
        UnknownName: if there is no such reward.
    """
    found = read_spec(spec)
    if found.weight is not None:
        raise SettingsError([f"{spec}: a weight means nothing here; only training weighs rewards"])
    reward = found.reward
    target = Target(f"rewards.{reward.name}", f"reward {reward.name!r}", reward)
    return _built(target, from_preset(presets.read(preset), preset, [], [reward.name]), sets)


def with_sets(reward: Reward, sets: Sequence[str]) -> Reward:
    """Return a reward with what `--set` changes.

    Raises:
        SettingsError: naming every setting that is wrong.
    """
    if not sets:
        return reward
    path = f"rewards.{reward.name}"
    target = Target(path, f"reward {reward.name!r}", type(reward))
    return _built(target.start(reward.model_dump(), "the run"), [], sets)


def _built(target: Target, items: Sequence[Item], sets: Sequence[str]) -> Reward:
    given, problems = from_sets(sets)
    for item in [*items, *given]:
        problems += _put(target, item, target.path)
    built, found = target.build()
    if problems or found:
        raise SettingsError([*problems, *found])
    return built


def _put(target: Target, item: Item, path: str) -> list[str]:
    """Give the reward a value that is meant for it; return what is wrong with a `--set`."""
    name = item.key.removeprefix(f"{path}.") if "." in item.key else item.key
    if name in target.model.model_fields and (item.key != name or not item.soft):
        target.put(name, item.value, item.origin)
        return []
    return [] if item.soft else [f"{item.written}: {target.label} has no field {name!r}"]
