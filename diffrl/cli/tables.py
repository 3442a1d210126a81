"""Settings and presets as aligned text, coloured where the terminal allows."""

from __future__ import annotations

from collections.abc import Iterator

import typer

from diffrl import presets
from diffrl.cli.columns import columns
from diffrl.settings import Settings
from diffrl.settings.saved import tables
from diffrl.settings.sections import SECTIONS
from diffrl.settings.toml import write_value

KEY_SETTINGS = (
    ("model", "ref"),
    ("model", "size"),
    ("model", "precision"),
    ("sampler", "steps"),
    ("adapter", "rank"),
    ("optimizer", "lr"),
    ("train", "epochs"),
    ("train", "trajectories"),
)


def settings_lines(settings: Settings) -> Iterator[str]:
    """Yield a table of all settings with their origins."""
    recipe = settings.recipe
    yield preset_line(settings.preset)
    yield f"{typer.style(recipe.name, bold=True)}  {recipe.source}"
    for path, _, values in tables(settings):
        name = str(values["name"]) if path not in SECTIONS and "name" in values else ""
        origin = settings.origins.get(path, "")
        yield ""
        title = typer.style(f"{path} {name}".rstrip(), bold=True)
        yield f"{title}  {typer.style(f'({origin})', dim=True)}" if origin else title
        rows = []
        for key, value in values.items():
            if not (name and key == "name"):
                text = "none" if value is None else write_value(value)
                rows.append([f"  {key}", text, settings.origins.get(f"{path}.{key}", "")])
        yield from columns(rows)


def preset_line(name: str) -> str:
    """Return the first line that a run prints."""
    about = presets.read(name)["description"] if name in presets.names() else "not installed"
    return f"preset {name}: {about}"


def preset_lines() -> Iterator[str]:
    """Yield every preset with its description and main settings."""
    for number, name in enumerate(presets.names()):
        content = presets.read(name)
        if number:
            yield ""
        default = " (default)" if number == 0 else ""
        yield f"{typer.style(name, bold=True)}{default}: {content['description']}"
        for table, key in KEY_SETTINGS:
            if key in content.get(table, {}):
                yield f"  {table}.{key} = {write_value(content[table][key])}"
