"""Reads TOML files and single TOML values."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffrl.errors import SettingsError, one_line

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


def read(path: Path, called: str) -> dict[str, Any]:
    """Return the content of a TOML file; `called` is how messages refer to it.

    Raises:
        SettingsError: if it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError([f"{called}: {error.strerror or error}"]) from error
    except UnicodeDecodeError as error:
        raise SettingsError([f"{called}: not a text file in UTF-8"]) from error
    except RecursionError as error:
        raise SettingsError([f"{called}: not TOML that can be read: nested too deeply"]) from error
    except ValueError as error:
        raise SettingsError([f"{called}: not TOML: {one_line(str(error))}"]) from error


def parse_value(text: str) -> Any:
    """Return a TOML scalar, array or inline table, or the text itself where it is none of them."""
    try:
        content = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # a number of thousands of digits, hundreds of brackets
        return text
    value = content["value"]
    if set(content) != {"value"} or not isinstance(value, bool | int | float | str | list | dict):
        return text
    return value


def write_value(value: Any) -> str:
    """Return a value as TOML, on one line; None is written as the string none."""
    import tomli_w

    if value is None:
        return '"none"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(write_value(v) for v in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_key(k)} = {write_value(v)}' for k, v in value.items())}}}"
    return tomli_w.dumps({"v": value}).removeprefix("v = ").rstrip("\n")


def _key(name: object) -> str:
    import tomli_w

    return tomli_w.dumps({str(name): 0}).removesuffix(" = 0\n")
