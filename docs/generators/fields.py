"""Tables of settings: sections, components, rewards, presets and recipes."""

from __future__ import annotations

import sys
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from generators.markdown import table, value

ROOT = Path(__file__).resolve().parents[2]
LIMITS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def sections() -> str:
    """Return a table of fields for every section of the settings."""
    from diffrl.settings import SECTIONS

    return "\n\n".join(
        f"### {name}\n\n{' '.join((section.__doc__ or '').split())}\n\n"
        f"{fields_table(name, section)}"
        for name, section in SECTIONS.items()
    )


def components() -> str:
    """Return a table of fields for every first-party stage component."""
    from diffrl.stages import STAGES

    return "\n\n".join(
        f"### {slot.replace('_', ' ')} `{component.name}`\n\n{describe(component)}\n\n"
        f"{fields_table(slot, component)}"
        for slot in STAGES
        for component in collect(slot)
    )


def rewards() -> str:
    """Return a table of fields for every first-party reward."""
    return "\n\n".join(
        f"### reward `{reward.name}`\n\n{describe(reward)}\n\n"
        f"{fields_table(f'rewards.{reward.name}', reward)}"
        for reward in collect("reward")
    )


def reward_table() -> str:
    """Return one row for each first-party reward."""
    head = ("reward", "what it is", "printed ×", "gradient", "licence")
    rows = [
        (f"`{r.name}`", describe(r), f"{r.scale:g}", "yes" if r.differentiable else "no", r.licence)
        for r in collect("reward")
    ]
    return table(head, rows)


def recipe(algo: str) -> str:
    """Return an algorithm's recipe, one row a field."""
    (recipe,) = (r for r in collect("algorithm") if r.name == algo)
    rows = []
    for slot, stage in recipe.stages.items():
        rows.append((f"`{slot}`", f"**{stage.name}**", describe(type(stage))))
        for name, field in type(stage).model_fields.items():
            rows.append((f"`{slot}.{name}`", value(getattr(stage, name)), field.description or ""))
    return table(("setting", "value", "meaning"), rows)


def recipes() -> str:
    """Return every first-party recipe, one row each, one column a stage."""
    from diffrl.stages import STAGES

    found = collect("algorithm")
    head = ("algorithm", "source", *(slot.replace("_", " ") for slot in STAGES))
    rows = [
        (f"`{r.name}`", r.source, *(in_brief(stage) for stage in r.stages.values())) for r in found
    ]
    return table(head, rows)


def in_brief(stage: Any) -> str:
    """Return a stage's name and the fields that its recipe sets."""
    own = [f for f in type(stage).model_fields if f in stage.model_fields_set]
    shown = (f"`{f}={value(getattr(stage, f)).strip('`')}`" for f in own)
    return " ".join([f"**{stage.name}**", *shown])


def presets() -> str:
    """Return what each preset is, and what it sets, one column a preset."""
    from diffrl import presets

    names = presets.names()
    contents = {name: presets.read(name) for name in names}
    columns = [dict(preset_rows(content)) for content in contents.values()]
    fields = sorted(dict.fromkeys(field for column in columns for field in column))
    rows = [(f, *(value(c[f]) if f in c else "" for c in columns)) for f in fields]
    about = [f"- `{name}`: {content.get('description', '')}" for name, content in contents.items()]
    return "\n".join(about) + "\n\n" + table(("field", *names), rows)


def preset_rows(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each field that a preset sets, with the case it is for, and its value."""
    from diffrl.settings.layers import flatten

    always = {k: v for k, v in content.items() if k not in ("description", "when")}
    yield from ((f"`{field}`", v) for field, v in flatten(always))
    for option, cases in content.get("when", {}).items():
        for case, tables in cases.items():
            for field, v in flatten(tables):
                yield f"`{field}` with `--{option} {case}`", v


def collect(kind: str) -> list[Any]:
    """Return what diffrl itself and the first-party plugins bring of a kind, by name."""
    return [entry.value for entry in first_party().components(kind).values()]


@cache
def first_party() -> Any:
    """Return a registry of this checkout's plugins only."""
    from diffrl.registry import BUILTINS, Registry

    found = Registry(BUILTINS)
    points = pyproject()["project"]["entry-points"]["diffrl"]
    for name, module in points.items():
        found.register(import_module(module), name)
    if found.broken:
        raise SystemExit(f"cannot document a broken plugin: {found.broken}")
    return found


def pyproject() -> dict[str, Any]:
    """Return this checkout's pyproject."""
    return read_toml(ROOT / "pyproject.toml")


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file."""
    if sys.version_info >= (3, 11):
        import tomllib as toml
    else:
        import tomli as toml

    return toml.loads(path.read_text("utf-8"))


def describe(component: type) -> str:
    """Return the first paragraph of a docstring, on one line."""
    return " ".join((component.__doc__ or "").strip().split("\n\n")[0].split())


def fields_table(slot: str, model: Any) -> str:
    """Return a table of a pydantic model's fields: name, type, default, meaning."""
    rows = [
        (f"`{slot}.{name}`", kind(field), default(field), field.description or "")
        for name, field in model.model_fields.items()
    ]
    return table(("field", "values", "default", "meaning"), rows) if rows else "No fields."


def kind(field: Any) -> str:
    """Return the values that a field takes, in words."""
    words, _, none = in_words(field.annotation).partition(" or none")
    either = field.annotation is not None and type(None) in typing.get_args(field.annotation)
    bounds, several = limits(field.metadata), any(sign in words for sign in LIMITS.values())
    bounded = f"{words}{none}{', ' if bounds and several else ' '}{bounds}".strip()
    return f"{bounded}, or none" if either else bounded


def limits(metadata: typing.Iterable[Any]) -> str:
    """Return the bounds among what annotates a number, those inside a `Field` included."""
    flat = [one for each in metadata for one in getattr(each, "metadata", [each])]
    found = [
        f"{sign} {number(getattr(limit, name))}"
        for name, sign in LIMITS.items()
        for limit in flat
        if getattr(limit, name, None) is not None
    ]
    return ", ".join(found)


def number(bound: float) -> str:
    """Return a bound with all of its digits."""
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def in_words(annotation: Any) -> str:
    """Return a type as a reader of settings knows it."""
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{a}`" for a in typing.get_args(annotation))
    if annotation is type(None):
        return "none"
    if arguments := [a for a in typing.get_args(annotation) if a is not Ellipsis]:
        if typing.get_origin(annotation) is typing.Annotated:
            return f"{in_words(arguments[0])} {limits(arguments[1:])}".strip()
        joined = " or ".join(in_words(a) for a in arguments)
        return f"list of {joined}" if typing.get_origin(annotation) in (tuple, list) else joined
    return getattr(annotation, "__name__", str(annotation))


def default(field: Any) -> str:
    """Return a field's default, or that it must be given."""
    return "must be given" if field.is_required() else value(field.get_default())
