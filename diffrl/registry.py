"""Finds plugins and what they bring: closed sets of names, collected and looked up.

Built-in modules come first, then the entry points of group `diffrl`, one by one. A plugin that
cannot be loaded, misspells a hook or returns something else than the hook promises becomes a
`Broken` row; the others still work.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import Any

import pluggy

from diffrl import hookspecs, origin
from diffrl.errors import DiffrlError, DuplicateName, PluginError, UnknownName, did_you_mean, shown
from diffrl.kinds import KINDS, Kind, refuse_misfit

BUILTINS = tuple(
    f"diffrl.builtin.{module}"
    for module in (
        "samplers",
        "stored",
        "reward_predictors",
        "advantages",
        "update_schedulers",
        "losses",
        "rewards",
        "models",
        "prompts",
    )
)


LONGEST = 300
"""Characters of an error of somebody else's."""


@dataclass(frozen=True)
class Entry:
    """One registered name: a component class or a recipe, and who brought it."""

    value: Any
    plugin: str
    package: str
    version: str

    @property
    def claim(self) -> tuple[str, str, str]:
        """Plugin, package and version."""
        return self.plugin, self.package, self.version

    @property
    def owner(self) -> str:
        """The plugin and its package, as messages name them."""
        return f"{self.plugin} ({self.package} {self.version})"


@dataclass(frozen=True)
class Broken:
    """A plugin that cannot be used, and why."""

    name: str
    package: str
    version: str
    error: str
    origin: str = ""


class Registry:
    """Everything that is installed.

    Args:
        builtins: modules that are registered first.
        points: the entry points to load, in order.
    """

    def __init__(self, builtins: Sequence[str] = (), points: Sequence[EntryPoint] = ()) -> None:
        self._plugins = pluggy.PluginManager(hookspecs.PROJECT)
        self._plugins.add_hookspecs(hookspecs)
        self._brought: dict[str, dict[str, list[Entry]]] = {}
        self._broken: list[Broken] = []
        self.left_out: tuple[str, ...] = ()
        """Entry points that the environment keeps from being loaded."""
        self.loaded: dict[str, tuple[str, str, str]] = {}  # package, version and origin by name
        for module in builtins:
            about = ("diffrl", _version(), origin.of_module(module))
            self._load(module, about, partial(import_module, module))
        for point in points:
            package, release = (point.dist.name, point.dist.version) if point.dist else "??"
            self._load(point.name, (package, release, origin.of_point(point)), point.load)

    @property
    def hook(self) -> Any:
        """The hooks themselves: `open_model`, `open_prompts` and the observers."""
        return self._plugins.hook

    def observers(self, hook: str) -> Iterator[tuple[object, Callable[..., object]]]:
        """Yield who watches a hook, and that hook for it alone; who came last comes first."""
        every = [impl.plugin for impl in getattr(self.hook, hook).get_hookimpls()]
        for one in reversed(every):
            others = [plugin for plugin in every if plugin is not one]
            yield one, self._plugins.subset_hook_caller(hook, others)

    def extending(self, hook: str) -> tuple[str, ...]:
        """Return the names of the plugins that implement a hook and are not built in."""
        every = [impl.plugin_name for impl in getattr(self.hook, hook).get_hookimpls()]
        return tuple(name for name in reversed(every) if name not in BUILTINS)

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """Every kind of component, algorithms first."""
        return KINDS

    @property
    def broken(self) -> tuple[Broken, ...]:
        """The plugins that could not be loaded."""
        return tuple(self._broken)

    def components(self, kind: str) -> dict[str, Entry]:
        """Return what is registered for a kind, by name; of duplicates, the first."""
        return {name: owners[0] for name, owners in self._owners(kind).items()}

    def duplicates(self) -> list[DuplicateName]:
        """Return one error for each name that two plugins claim."""
        return [
            DuplicateName(KINDS[kind].label, name, [e.claim for e in owners])
            for kind in KINDS
            for name, owners in self._owners(kind).items()
            if len(owners) > 1
        ]

    def get(self, kind: str, name: str) -> Entry:
        """Return what is registered under a name.

        Raises:
            UnknownName: with the nearest names.
            DuplicateName: when two plugins claim it.
        """
        owners = self._owners(kind).get(name, [])
        if not owners:
            hint = "" if not self._broken else f" {self._broken_hint()}"
            if self.left_out:
                hint += f" (DIFFRL_PLUGINS leaves out {', '.join(self.left_out)}.)"
            raise UnknownName(KINDS[kind].label, name, self._owners(kind), hint)
        if len(owners) > 1:
            raise DuplicateName(KINDS[kind].label, name, [e.claim for e in owners])
        return owners[0]

    def register(
        self,
        plugin: object,
        name: str | None = None,
        package: str = "local",
        release: str = "-",
        origin: str = "registered by the program",
    ) -> None:
        """Add a plugin: any object with hook implementations.

        Raises:
            PluginError: if a hook is unknown, has the wrong arguments or returns wrong things.
        """
        name = name or f"{type(plugin).__name__}-{id(plugin)}"
        if self._plugins.has_plugin(name) and package != "local":
            name = f"{package}:{name}"  # two packages may choose one entry-point name
        if self._plugins.has_plugin(name):
            raise PluginError(f"a plugin called {name!r} is registered already")
        try:
            _refuse_other_version(plugin)
            self._plugins.register(plugin, name)
            self.loaded[name] = (package, release, origin)
            self._refuse_misspelt(plugin)
            self._brought[name] = {
                kind.name: [Entry(v, name, package, release) for v in self._collect(plugin, kind)]
                for kind in KINDS.values()
            }
        except BaseException as error:
            if self._plugins.has_plugin(name):
                self._plugins.unregister(name=name)
                self.loaded.pop(name, None)
            if isinstance(error, KeyboardInterrupt):
                raise
            text = str(error) if isinstance(error, DiffrlError) else _one_line(error)
            raise PluginError(text) from error

    def unregister(self, plugin: object) -> None:
        """Remove a plugin, given itself or its name."""
        name = plugin if isinstance(plugin, str) else self._plugins.get_name(plugin)
        self._plugins.unregister(name=name)
        del self._brought[str(name)], self.loaded[str(name)]

    def _load(self, name: str, about: tuple[str, str, str], load: Callable[[], object]) -> None:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # what it prints is no part of our answer
                self.register(load(), name, *about)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            text = str(error) if isinstance(error, PluginError) else _one_line(error)
            self._broken.append(Broken(name, *about[:2], text, about[2]))

    def _refuse_misspelt(self, plugin: object) -> None:
        hooks = [n for n in vars(hookspecs) if n.startswith("diffrl_")]
        for caller in self._plugins.get_hookcallers(plugin) or []:
            if not caller.has_spec():
                near = did_you_mean(caller.name, hooks)
                raise PluginError(f"no hook is called {caller.name!r}.{near}")
        for name in (n for n in dir(plugin) if n.startswith("diffrl_")):
            function = getattr(plugin, name, None)
            if callable(function) and not hasattr(function, f"{hookspecs.PROJECT}_impl"):
                near = "" if name in hooks else f" No hook is called so.{did_you_mean(name, hooks)}"
                raise PluginError(
                    f"{name} is not marked with @hookimpl, so it would be ignored.{near}"
                )

    def _collect(self, plugin: object, kind: Kind) -> Iterator[Any]:
        for implementation in getattr(self.hook, kind.hook).get_hookimpls():
            if implementation.plugin is not plugin:
                continue
            found = implementation.function()
            if not isinstance(found, Iterable) or isinstance(found, str | type):
                raise PluginError(f"{kind.hook} should return a list, but returned {shown(found)}")
            for value in found:
                refuse_misfit(value, kind)
                yield value

    def _owners(self, kind: str) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = {}
        for brought in self._brought.values():
            for entry in brought[kind]:
                found.setdefault(entry.value.name, []).append(entry)
        return dict(sorted(found.items()))

    def _broken_hint(self) -> str:
        names = ", ".join(b.name for b in self._broken)
        return f"(Not loaded: {names}; `diffrl list-plugins` says why.)"


@cache
def registry() -> Registry:
    """Return the registry of this process; `DIFFRL_PLUGINS=sdpo,rwr` limits what it loads."""
    points = sorted(entry_points(group="diffrl"), key=lambda p: p.name)
    wanted = os.environ.get("DIFFRL_PLUGINS")
    if wanted is None:
        return Registry(BUILTINS, points)
    names = [n.strip() for n in wanted.split(",") if n.strip()]
    found = Registry(BUILTINS, [p for p in points if p.name in names])
    found.left_out = tuple(p.name for p in points if p.name not in names)
    for name in names:
        if name not in {p.name for p in points}:
            hint = did_you_mean(name, [p.name for p in points])
            error = f"DIFFRL_PLUGINS names it, but it is not installed.{hint}"
            found._broken.append(Broken(name, "-", "-", error))
    return found


def _refuse_other_version(plugin: object) -> None:
    wanted = getattr(plugin, "diffrl_api", hookspecs.API)
    if wanted != hookspecs.API:
        raise PluginError(
            f"was written for version {wanted!r} of diffrl's plugin interface; "
            f"this is version {hookspecs.API}"
        )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"  # pluggy prints whole modules
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _version() -> str:
    try:
        return version("diffrl")
    except PackageNotFoundError:
        return "?"
