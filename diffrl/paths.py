"""Names of files as people write them."""

from __future__ import annotations

from pathlib import Path


def there(ref: str | Path) -> Path | None:
    """Return the file or folder of that name, its ~ replaced; None where there is or can be none.

    A name may be too long, hold a null byte, or begin with the home of nobody.
    """
    try:
        path = Path(ref).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):
        return None
