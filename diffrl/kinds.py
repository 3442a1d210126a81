"""The kinds of things a plugin can bring: algorithms, the five stages and rewards."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from diffrl.errors import PluginError, shown
from diffrl.recipe import Recipe
from diffrl.stages import STAGES, Component, Reward, UpdateScheduler


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
        _refuse_tuning(value)
    else:
        _refuse_declarations(value)
    name = getattr(value, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        what = getattr(value, "__name__", "a recipe")
        raise PluginError(f"{what} needs a name in kebab-case, but has {name!r}")


def _refuse_tuning(recipe: Recipe) -> None:
    like = recipe.tuned_like
    if not (isinstance(like, tuple) and all(isinstance(one, str) for one in like)):
        raise PluginError(
            f"the recipe {recipe.name!r} has tuned_like = {shown(like)}; expected a tuple of "
            f'names, as ("ddpo",)'
        )


def _refuse_declarations(component: Any) -> None:
    """Refuse what a class says of itself in another form than it is read in."""
    who, known = component.__name__, component.model_fields
    for name in ("needs", "gives"):
        said = getattr(component, name, None)
        if isinstance(said, str | list | tuple | dict):
            raise PluginError(
                f"{who}.{name} is {shown(said)}; expected a frozenset of names, or a property that "
                f"returns one"
            )
    if issubclass(component, UpdateScheduler) and not (
        "arity" in known or hasattr(component, "arity")
    ):
        raise PluginError(f"{who} needs an arity, the rows of a tuple: arity: ClassVar[int] = 2")
    if issubclass(component, Reward) and "weight" in known:
        raise PluginError(
            f"{who} has a field 'weight', which is the run's own: --reward NAME:WEIGHT; call it "
            f"something else"
        )
