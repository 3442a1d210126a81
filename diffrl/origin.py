"""Where a plugin's code lies, as `diffrl list-plugins` tells it, and where it failed."""

from __future__ import annotations

import json
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from traceback import extract_tb
from urllib.parse import unquote, urlsplit

PACKAGE = Path(__file__).parent
"""Where diffrl's own code lies."""


def failed_at(error: BaseException) -> str:
    """Return the line of somebody else's code that diffrl called last, and why it failed."""
    frames = extract_tb(error.__traceback__)
    own = [Path(frame.filename).is_relative_to(PACKAGE) for frame in frames]
    called = [frame for i, frame in enumerate(frames) if i and own[i - 1] and not own[i]]
    at = (called or list(frames))[-1]
    return f"{at.filename}:{at.lineno} in {at.name} ({type(error).__name__}: {error})"


def of_point(point: EntryPoint) -> str:
    """Return an entry point's code and, beside it, where its package was installed from."""
    return ", ".join(filter(None, [_place(point.value.partition(":")[0]), _source(point.dist)]))


def of_module(module: str) -> str:
    """Return where a module of diffrl itself lies."""
    try:
        dist = distribution("diffrl")
    except PackageNotFoundError:
        dist = None
    return ", ".join(filter(None, [_place(module), _source(dist)]))


def _place(module: str) -> str:
    """Return a module's file; of a submodule, its package's, which would be imported otherwise."""
    try:
        found = find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        found = None
    return found.origin if found and found.origin else "nothing to import"


def _source(dist: Distribution | None) -> str:
    """Return how a package was installed, where that is more than by name from an index."""
    try:
        told = json.loads((dist and dist.read_text("direct_url.json")) or "{}")
        url = urlsplit(str(told.get("url", "")))
    except (ValueError, AttributeError):
        return "installed from an unreadable record"
    if not url.scheme:
        return ""
    where = unquote(url.path) if url.scheme == "file" else f"{url.hostname}{url.path}"
    commit = (told.get("vcs_info") or {}).get("commit_id", "")
    editable = "editable, " if (told.get("dir_info") or {}).get("editable") else ""
    return f"{editable}from {Path(where) if url.scheme == 'file' else where}" + (
        f" at {commit[:10]}" if commit else ""
    )
