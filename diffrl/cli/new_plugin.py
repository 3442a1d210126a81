"""What `diffrl new-plugin` does: a package whose tests pass at once."""

from __future__ import annotations

import re
import shutil
from difflib import get_close_matches
from importlib.resources import files
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from string import Template

from diffrl.errors import PluginError, a, did_you_mean
from diffrl.folder import check_free

USES = {
    "loss": "diffrl train --algo {name} --reward pickscore",
    "reward": "diffrl train --algo sdpo --reward {name}",
    "sampler": "diffrl train --algo ddpo --reward pickscore --set sampler={name}",
    "reward-predictor": "diffrl train --algo ddpo --reward pickscore --set reward_predictor={name}",
    "advantage-estimator": (
        "diffrl train --algo ddpo --reward pickscore --set advantage_estimator={name}"
    ),
    "update-scheduler": "diffrl train --algo ddpo --reward pickscore --set update_scheduler={name}",
}
"""The kinds that can be written, and the command that uses each."""


def new_plugin(name: str, kind: str, parent: Path) -> Path:
    """Write a plugin package into `parent` and return its folder.

    Args:
        name: of the component, in kebab-case; the package is `diffrl-NAME`.
        kind: one of `USES`.
        parent: folder to write into.

    Raises:
        PluginError: if the name or kind cannot be used, or something is there already.
    """
    if kind not in USES:
        known = ", ".join(USES)
        hint = did_you_mean(kind, get_close_matches(kind, USES))
        raise PluginError(f"--kind {kind}: expected one of {known}.{hint}")
    own = name.removeprefix("diffrl-")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", own) or iskeyword(own):
        raise PluginError(f"{name!r} cannot name a plugin: expected kebab-case, such as my-loss")
    words = values(own, kind)
    refuse_taken(words)
    folder = parent / words["distribution"]
    check_free(folder)
    if folder.exists():
        raise PluginError(f"{folder} exists already; choose another name or --output")
    partial = parent / f".{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a call that was interrupted
    partial.mkdir(parents=True)
    contents = {
        "pyproject.toml": "pyproject",
        "README.md": "README",
        f"{words['module']}.py": kind,
        f"test_{words['module']}.py": "test",
    }
    for file, template in contents.items():
        (partial / file).write_text(filled(template, words), "utf-8")
    partial.replace(folder)
    return folder


def refuse_taken(words: dict[str, str]) -> None:
    """Refuse names that diffrl or an installed plugin uses already.

    Raises:
        PluginError: saying whose name it is.
    """
    import diffrl
    from diffrl.registry import registry

    if words["cls"] in diffrl.__all__:
        raise PluginError(f"{words['name']!r} is diffrl's own word; choose a more telling name")
    if iskeyword(words["cls"]):
        raise PluginError(f"{words['name']!r} is Python's own word; choose a more telling name")
    slot = words["kind"].replace("-", "_")
    for kind in (slot, "algorithm") if slot == "loss" else (slot,):
        if owner := registry().components(kind).get(words["name"]):
            raise PluginError(f"{words['name']!r} is taken by {owner.owner}; choose another name")
    if found := registry().loaded.get(words["entry"]):
        package, version, _ = found
        raise PluginError(
            f"a plugin is called {words['entry']!r} already ({package} {version}); choose another "
            f"name"
        )
    if find_spec(words["module"]) is not None:
        raise PluginError(
            f"a module {words['module']} is installed already; choose another name than "
            f"{words['name']!r}"
        )


def values(name: str, kind: str) -> dict[str, str]:
    """Return what the templates' placeholders stand for."""
    label = kind.replace("-", " ")
    camel = "".join(word.capitalize() for word in name.split("-"))
    return {
        "name": name,
        "kind": kind,
        "label": label,
        "a_label": a(label),
        "title": name.replace("-", " ").capitalize(),
        "cls": camel if kind != "loss" or camel.endswith("Loss") else f"{camel}Loss",
        "contract": "".join(word.capitalize() for word in kind.split("-")) + "Contract",
        "distribution": f"diffrl-{name}",
        "module": f"diffrl_{name.replace('-', '_')}",
        "entry": name,
        "use": USES[kind].format(name=name),
    }


def filled(template: str, words: dict[str, str]) -> str:
    """Return a template with its placeholders filled in."""
    text = (files("diffrl.cli") / "templates" / f"{template}.txt").read_text("utf-8")
    return Template(text).substitute(words)
