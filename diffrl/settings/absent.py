"""Which plugins a run was made with that are not loaded here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffrl.errors import one_line
from diffrl.registry import registry

ENVIRONMENT = "environment.json"
"""In a run's folder: versions, machine and plugins."""


def absent(settings: Path) -> list[str]:
    """Return what to say of plugins that the run of saved settings had and this process lacks.

    Args:
        settings: of a run's folder, or of one of its checkpoints.

    Returns:
        One line, with each plugin and its package; none where nothing is known or lacking.
    """
    for folder in (settings.parent, *settings.parents[2:3]):
        if (folder / ENVIRONMENT).is_file():
            had = _plugins(folder / ENVIRONMENT)
            break
    else:
        return []
    gone = [f"{name} ({package})" for name, package in had.items() if name not in registry().loaded]
    if not gone:
        return []
    return [
        f"{folder}: made with {one_line(', '.join(gone))}, not loaded here: install what is in "
        f"brackets, or see what `diffrl list-plugins` says of it"
    ]


def _plugins(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    plugins = found.get("plugins") if isinstance(found, dict) else None
    return plugins if isinstance(plugins, dict) else {}
