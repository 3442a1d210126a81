"""Where prompts come from."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from diffrl import preferences
from diffrl.errors import PromptsError
from diffrl.hookspecs import hookimpl


@hookimpl(trylast=True)
def diffrl_open_prompts(ref: str) -> Sequence[str] | None:
    """Read the bundled `animals` and `unseen` lists, or a file with one prompt a line.

    Of a file of preferences (`.jsonl`) the prompts are taken, each once.
    """
    if ref in ("animals", "unseen"):
        return _lines(files("diffrl.builtin").joinpath(f"{ref}.txt").read_text("utf-8"))
    path = Path(ref).expanduser()
    if not path.is_file():
        return None
    if path.suffix == ".jsonl":
        return list(dict.fromkeys(pair.prompt for pair in preferences.read(path)))
    try:
        prompts = _lines(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PromptsError(f"cannot read prompts from {ref}: {error}") from None
    if not prompts:
        raise PromptsError(f"no prompts in {ref}: expected one prompt a line")
    return prompts


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
