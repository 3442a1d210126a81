"""Applies items to the stages, rewards and sections of a run: swaps first, then fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel

from diffrl.errors import (
    DiffrlError,
    DuplicateName,
    FitError,
    SettingsError,
    UnknownName,
    did_you_mean,
    shown,
)
from diffrl.recipe import Recipe
from diffrl.registry import registry
from diffrl.settings import checks
from diffrl.settings.layers import Item
from diffrl.settings.resolved import Settings, WeightedReward
from diffrl.settings.rewards import read_spec, same
from diffrl.settings.sections import SECTIONS, Section
from diffrl.settings.target import Target
from diffrl.stages import STAGES, Component, Reward


class RewardWeight(Section):
    """The factor of a reward in the sum."""

    weight: float = 1.0


def without_lengths(items: Sequence[Item]) -> list[Item]:
    """Return items without `sampler.lengths` where a later layer asks for `sampler.steps`."""
    steps = [i for i, item in enumerate(items) if item.key in ("sampler.steps", "steps")]
    last = max(steps, default=-1)
    return [
        item
        for i, item in enumerate(items)
        if item.key not in ("sampler.lengths", "lengths")
        or i > last
        or _layer(item) == _layer(items[last])
    ]


def _is_own(stage: type[BaseModel], slot: str, algo: str) -> bool:
    """Return whether a stage is an algorithm's own: what suits its clip may not suit another's."""
    known = registry().components("algorithm").get(algo)
    return known is None or issubclass(stage, type(getattr(known.value, slot)))


def _asks(stages: Mapping[str, Any]) -> bool:
    """Return whether a reward predictor asks for scores, as far as is known."""
    predictor, sampler = stages.get("reward_predictor"), stages.get("sampler")
    if predictor is None or sampler is None:
        return True
    try:
        return predictor.queries(max(sampler.lengths or (sampler.steps,))) > 0
    except NotImplementedError:  # which the contract suite asks for
        return True


def _layer(item: Item) -> str:
    """Return what an item's layer is called; all `--set` are one, in whatever order."""
    if item.layer:
        return item.layer
    return "--set" if item.origin.startswith("--set ") else item.origin


class Draft:
    """Settings while they are put together; collects problems instead of raising.

    Args:
        recipe: what the algorithm says, or None if there is no such algorithm.
        rewards: the rewards in use and the argument that named each.
    """

    def __init__(
        self, recipe: Recipe | None, rewards: Mapping[str, tuple[type[Reward], str]]
    ) -> None:
        self.recipe = recipe
        self.rewards = dict(rewards)
        self.problems: list[str] = []
        self.origins: dict[str, str] = {}
        self.targets: dict[str, Target] = {}
        self.weights: dict[str, Target] = {}
        self.watched: list[str] = []
        for slot, stage in (recipe.stages if recipe else {}).items():
            self._fill(slot, type(stage), f"recipe {recipe.name!r}" if recipe else "")
            given = {name: getattr(stage, name) for name in sorted(stage.model_fields_set)}
            self.targets[slot].start(given, self.origins[slot])
        for name, (reward, origin) in self.rewards.items():
            path = f"rewards.{name}"
            self.origins[path] = origin
            self.targets[path] = Target(path, f"reward {name!r}", reward)
            self.weights[path] = Target(path, f"reward {name!r}", RewardWeight)
        for name, section in SECTIONS.items():
            self.targets[name] = Target(name, f"section {name!r}", section)

    def apply(self, items: Sequence[Item]) -> Draft:
        """Apply layers, lowest first, and return itself."""
        items = without_lengths(items)
        swaps = {item.key: item for item in items if item.key in STAGES}
        for item in swaps.values():
            self._swap(item)
        self._drop_lengths(items)
        self._watch([item.value for item in items if item.key in ("eval.watch", "watch")])
        for item in items:
            if item.key not in STAGES:
                self._set(item)
        return self

    def settings(self, preset: str, need_reward: bool = True) -> Settings:
        """Return the settings.

        Args:
            preset: they are put together on.
            need_reward: whether no reward is a problem, if the reward predictor asks for scores.

        Raises:
            FitError: if only the stages are at odds with each other.
            SettingsError: with every problem found, of values and of fit.
        """
        built: dict[str, Any] = {}
        for path, target in self.targets.items():
            built[path], found = target.build()
            self.problems += found
        weights = {}
        for path, target in self.weights.items():
            weights[path], found = target.build()
            self.problems += found
        stages = {slot: built[slot] for slot in STAGES if built.get(slot) is not None}
        if need_reward and not self.rewards and _asks(stages):
            known = ", ".join(registry().components("reward"))
            self.problems.insert(0, f"no reward to train on; add --reward NAME. Known: {known}.")
        recipe, fit = None, []
        if self.recipe and len(stages) == len(STAGES):
            recipe = replace(self.recipe, **stages)
            self.problems += recipe.faults()
            fit = recipe.misfits()
        self.problems += checks.problems(self.targets, built)
        if self.problems or recipe is None:
            raise SettingsError([*self.problems, *fit])
        if fit:
            raise FitError(fit)
        return Settings(
            recipe=recipe,
            rewards=tuple(
                WeightedReward(built[f"rewards.{n}"], weights[f"rewards.{n}"].weight)
                for n in self.rewards
            ),
            watched=tuple(built[f"rewards.{n}"] for n in self.watched),
            preset=preset,
            **{name: built[name] for name in SECTIONS},
            origins=self._origins(),
        )

    def _origins(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for path, target in self.targets.items():
            if path in self.origins:
                found[path] = self.origins[path]
            if path in self.weights:
                found |= self.weights[path].origins()
            found |= target.origins()
        return found

    def _fill(self, slot: str, stage: type[Component], origin: str) -> None:
        label = f"{slot.replace('_', ' ')} {stage.name!r}"
        self.targets[slot] = Target(slot, label, stage)
        self.origins[slot] = origin

    def _swap(self, item: Item) -> None:
        """Put another stage in a slot; it takes its defaults, but for the fields that it keeps."""
        slot = item.key
        if self.recipe is None:
            return
        if item.value == getattr(self.recipe, slot).name:
            self.origins[slot] = item.origin
            return
        try:
            stage = registry().get(slot, str(item.value)).value
        except (UnknownName, DuplicateName) as error:
            self.problems.append(f"{item.origin}: {error}")
            del self.targets[slot]
            return
        before = getattr(self.recipe, slot)
        self._fill(slot, stage, item.origin)
        own = before.model_fields_set & stage.kept & set(stage.model_fields)
        given = {name: getattr(before, name) for name in sorted(own)}
        self.targets[slot].start(given, f"recipe {self.recipe.name!r}")

    def _drop_lengths(self, items: Sequence[Item]) -> None:
        """Let a sampler's own lengths give way, too, where a layer asks for a number of steps."""
        keys = [item.key for item in items]
        steps = [item for item in items if item.key in ("sampler.steps", "steps")]
        target = self.targets.get("sampler")
        if not steps or target is None or {"sampler.lengths", "lengths"} & set(keys):
            return
        given, info = target.history.get("lengths"), target.model.model_fields.get("lengths")
        if given or (info is not None and info.get_default()):
            target.put("lengths", (), steps[-1].origin)

    def _set(self, item: Item) -> None:
        first, dot, rest = item.key.partition(".")
        if not dot:
            self._set_bare(item)
        elif first == "rewards":
            self._set_reward(item, *rest.partition(".")[::2])
        elif first in self.targets:
            self._put(first, rest, item)
        elif first not in STAGES:
            near = did_you_mean(first, [*STAGES, "rewards", *SECTIONS])
            misses = f"no stage or section is called {shown(first)}.{near}"
            self.problems.append(f"{item.written}: {misses}")

    def _set_bare(self, item: Item) -> None:
        name = item.key
        if name in SECTIONS:
            fields = ", ".join(f"{name}.{f}" for f in SECTIONS[name].model_fields)
            self.problems.append(f"{item.written}: {name} is a section; set one of {fields}")
            return
        slots = {p: t.model.model_fields for p, t in self.targets.items() if "." not in p}
        stages = [path for path in slots if path in STAGES and name in slots[path]]
        owners = stages or [path for path, fields in slots.items() if name in fields]
        if len(owners) == 1:
            self._put(owners[0], name, item)
        elif owners:
            choices = " or ".join(f"{path}.{name}" for path in owners)
            self.problems.append(f"{item.written}: {name!r} is ambiguous; write {choices}")
        elif self.recipe:
            near = get_close_matches(name, {f for fields in slots.values() for f in fields}, n=2)
            paths = [f"{path}.{f}" for f in near for path, fields in slots.items() if f in fields]
            known = f"`diffrl show {self.recipe.name}` lists them all."
            hint = f"Did you mean {' or '.join(paths)}?" if near else known
            misses = f"no stage of {self.recipe.name!r} has a field {shown(name)}"
            self.problems.append(f"{item.written}: {misses}. {hint}")

    def _set_reward(self, item: Item, name: str, field: str) -> None:
        path = f"rewards.{name}"
        if path in self.weights and field == "weight":
            self.weights[path].put("weight", item.value, item.origin)
        elif path in self.targets and field:
            self._put(path, field, item)
        elif path in self.targets:
            self.problems.append(f"{item.written}: name a field, for example {path}.weight=0.5")
        elif not item.soft:
            known = [*self.rewards, *self.watched]
            used = f"in use ({', '.join(known)})" if known else "in use; none is"
            near = did_you_mean(name, known) if get_close_matches(name, known) else ""
            self.problems.append(f"{item.written}: reward {shown(name)} is not {used}.{near}")

    def _watch(self, given: Sequence[Any]) -> None:
        """Make targets of the rewards that are only watched; checks name unknown ones."""
        specs = given[-1] if given and isinstance(given[-1], (list, tuple)) else ()
        for spec in specs:
            try:
                reward = read_spec(str(spec)).reward
            except DiffrlError:
                continue
            path = f"rewards.{reward.name}"
            if path not in self.targets:
                self.targets[path] = Target(path, f"reward {reward.name!r}", reward)
                self.watched.append(reward.name)
            elif not same(self.targets[path].model, reward):
                self.problems.append(
                    f"eval.watch: {spec}: another reward is called {reward.name!r}, too; "
                    f"call this one NAME={spec}"
                )

    def _put(self, path: str, name: str, item: Item) -> None:
        target = self.targets[path]
        if item.algo and path in STAGES and not _is_own(target.model, path, item.algo):
            return
        if name in target.model.model_fields:
            target.put(name, item.value, item.origin)
        elif not item.soft or path in SECTIONS:
            near = did_you_mean(name, target.model.model_fields)
            if name == "name" and path in STAGES:
                near = f" To swap it, write {path}={item.value}"
            has = f"{target.label} has no field {shown(name)}."
            self.problems.append(f"{item.written}: {has}{near}")
