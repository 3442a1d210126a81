"""The kinds of things a plugin can bring: algorithms, the five stages and rewards."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from diffrl.errors import PluginError, shown
from diffrl.recipe import Recipe
from diffrl.stages import STAGES, Component, Reward


@dataclass(frozen=True)
class Kind:
    """A closed set of names: the hook that fills it and the class of its members."""

    name: str
    hook: str
    base: type[Component] | type[Recipe]

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.name.replace("_", " ")


KINDS: dict[str, Kind] = {
    "algorithm": Kind("algorithm", "diffrl_algorithms", Recipe),
    **{
        slot: Kind(slot, "diffrl_losses" if slot == "loss" else f"diffrl_{slot}s", base)
        for slot, base in STAGES.items()
    },
    "reward": Kind("reward", "diffrl_rewards", Reward),
}


def refuse_misfit(value: Any, kind: Kind) -> None:
    """Refuse a value that a hook of this kind must not return.

    Raises:
        PluginError: saying what was returned and what was expected.
    """
    if kind.base is Recipe:
        fits, wanted = isinstance(value, Recipe), "Recipe values"
    else:
        fits = isinstance(value, type) and issubclass(value, kind.base)
        wanted = f"subclasses of {kind.base.__name__}"
    if not fits:
        raise PluginError(f"{kind.hook} should return {wanted}, but returned {value!r}")
    if isinstance(value, Recipe):
        for slot, base in STAGES.items():
            if not isinstance(part := getattr(value, slot), base):
                call = f"; write {part.__name__}()" if isinstance(part, type) else ""
                raise PluginError(
                    f"the recipe {value.name!r} should have a {base.__name__} value as its {slot}, "
                    f"but has {shown(part)}{call}"
                )
    name = getattr(value, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        what = getattr(value, "__name__", "a recipe")
        raise PluginError(f"{what} needs a name in kebab-case, but has {name!r}")
