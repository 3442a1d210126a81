"""Where prompts come from."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from diffrl import preferences
from diffrl.errors import PromptsError, SettingsError
from diffrl.hookspecs import hookimpl
from diffrl.paths import there
from diffrl.preferences import SHOWN, control_characters


@hookimpl(trylast=True)
def diffrl_open_prompts(ref: str) -> Sequence[str] | None:
    """Read the bundled `animals` and `unseen` lists, or a file with one prompt a line.

    Of a file of preferences (`.jsonl`) the prompts are taken, each once.
    """
    if ref in ("animals", "unseen"):
        return _lines(files("diffrl.builtin").joinpath(f"{ref}.txt").read_text("utf-8"))
    path = there(ref)
    if path is None or not path.is_file():
        return None
    if path.suffix == ".jsonl":
        return list(dict.fromkeys(pair.prompt for pair in preferences.read(path)))
    try:
        text = path.read_text("utf-8").replace("\ufeff", "")  # byte order marks of some editors
    except (OSError, UnicodeDecodeError) as error:
        raise PromptsError(f"cannot read prompts from {ref}: {error}") from None
    if found := _unprintable(text, ref):
        raise SettingsError(found)
    if not (prompts := _lines(text)):
        raise PromptsError(f"no prompts in {ref}: expected one prompt a line")
    return prompts


def _lines(text: str) -> list[str]:
    return [line for each in text.split("\n") if (line := each.strip())]


def _unprintable(text: str, ref: str) -> list[str]:
    """Return one line for each of the first that holds a control character other than a tab."""
    found = [
        f"prompts {ref}, line {number}: holds the control character {bad[0]!r}; remove it"
        for number, line in enumerate(text.split("\n"), 1)
        if (bad := control_characters(line.strip()))
    ]
    more = [f"prompts {ref}: {len(found) - SHOWN} more lines hold one"] if found[SHOWN:] else []
    return found[:SHOWN] + more
