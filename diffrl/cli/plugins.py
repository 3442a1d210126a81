"""What `diffrl list-plugins` prints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import typer

from diffrl.cli.columns import columns
from diffrl.errors import UnknownName
from diffrl.kinds import KINDS
from diffrl.registry import Registry, registry
from diffrl.stages import STAGES


def plugin_lines(kind: str | None) -> Iterator[str]:
    """Yield the algorithms, or the components of one kind, then what is broken."""
    found = registry()
    chosen = _kind(kind) if kind else "algorithm"
    rows, header = _rows(found, chosen)
    if rows:
        yield from columns(rows, header)
    else:
        yield f"no {KINDS[chosen].label} is installed"
    if kind is None:
        yield ""
        yield "Other kinds: " + ", ".join(
            f"{k.label} ({len(found.components(k.name))})"
            for k in KINDS.values()
            if k.name != "algorithm"
        )
        yield "List one with --kind, for example --kind loss."
        yield ""
        yield from columns(_origins(found), ["plugin", "package", "version", "origin"])
    errors = [[b.name, b.package, b.version, b.error] for b in found.broken]
    errors += [row for error in found.duplicates() for row in error.rows]
    if errors:
        yield ""
        yield typer.style("Broken plugins", fg="red", bold=True)
        yield from columns(errors, ("plugin", "package", "version", "error"))


def plugins_json(kind: str | None) -> str:
    """Return everything installed, or one kind, and what is broken, as JSON."""
    found = registry()
    kinds = [_kind(kind)] if kind else list(KINDS)
    content: dict[str, Any] = {
        name: [
            {
                "name": key,
                "plugin": entry.plugin,
                "package": entry.package,
                "version": entry.version,
                "origin": found.loaded[entry.plugin][-1],
                **_details(name, entry.value),
            }
            for key, entry in found.components(name).items()
        ]
        for name in kinds
    }
    if kind is None:
        keys = ("name", "package", "version", "origin")
        rows = [(name, *about) for name, about in found.loaded.items()]
        content["plugins"] = [dict(zip(keys, row, strict=True)) for row in rows]
    content["broken"] = [vars(b) for b in found.broken]
    content["duplicates"] = [str(error) for error in found.duplicates()]
    return json.dumps(content, indent=2)


def _rows(found: Registry, kind: str) -> tuple[list[list[str]], list[str]]:
    entries = found.components(kind).items()
    if kind == "algorithm":
        header = ["algorithm", "package", "version", *(s.replace("_", " ") for s in STAGES)]
        return [
            [n, e.package, e.version, *(s.name for s in e.value.stages.values())]
            for n, e in entries
        ], header
    header = [KINDS[kind].label, "package", "version", "fields", "what it does"]
    return [
        [n, e.package, e.version, ", ".join(e.value.model_fields) or "-", _about(e.value)]
        for n, e in entries
    ], header


def _origins(found: Registry) -> list[list[str]]:
    """Return a row for each plugin that is not diffrl's own: who brought it, and from where."""
    loaded = sorted(found.loaded.items())
    return [[name, *about] for name, about in loaded if not name.startswith("diffrl.builtin.")]


def _details(kind: str, value: Any) -> dict[str, Any]:
    if kind == "algorithm":
        return {"source": value.source, **{k: s.name for k, s in value.stages.items()}}
    found = {"fields": list(value.model_fields), "about": _about(value)}
    if kind == "reward":
        said = ("scale", "higher_is_better", "differentiable", "groupwise", "licence")
        found |= {name: getattr(value, name) for name in said}
    return found


def _about(value: Any) -> str:
    return (value.__doc__ or "").strip().partition("\n")[0]


def _kind(text: str) -> str:
    name = text.strip().lower().replace("-", "_").replace(" ", "_")
    for kind in KINDS.values():
        if name in (kind.name, kind.hook.removeprefix("diffrl_")):
            return kind.name
    raise UnknownName("kind of component", text, [k.replace("_", "-") for k in KINDS])
