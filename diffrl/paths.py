"""Names of files as people write them."""

from __future__ import annotations

import re
from pathlib import Path

WORD = re.compile(r"^(--[a-z-]+=)?~(?=/|$)")
"""A word of a command line in which a shell leaves the ~ alone: `--output=~/runs`, or in quotes."""


def at_home(word: str) -> str:
    """Return a word of a command line with the home folder in place of its ~."""
    try:
        return WORD.sub(lambda found: f"{found[1] or ''}{Path.home()}", word, count=1)
    except RuntimeError:  # nobody knows where
        return word


def there(ref: str | Path) -> Path | None:
    """Return the file or folder of that name, its ~ replaced; None where there is or can be none.

    A name may be too long, hold a null byte, or begin with the home of nobody.
    """
    try:
        path = Path(ref).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):
        return None
