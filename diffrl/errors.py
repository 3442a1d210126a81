"""Everything diffrl refuses to do, one class per cause.

A message says what was read, what was expected, where it came from and the nearest fix. The
command line prints it without a traceback and exits with the class's `exit_code`: 2 for what is
refused before anything is done, 3 for a run that had to stop and saved what it had.
"""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class DiffrlError(Exception):
    """Root of all errors that a user can cause and mend."""

    exit_code = 2


class SettingsError(DiffrlError):
    """One or more settings are wrong; `problems` lists each of them."""

    def __init__(self, problems: Sequence[str], title: str | None = None) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        title = title or f"{count} problem{'s' if count != 1 else ''} in the settings"
        super().__init__("\n".join([f"{title}:", *(f"  {p}" for p in self.problems)]))


class FitError(SettingsError):
    """The stages of a recipe do not fit together."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(problems, "these stages do not fit together")


class DoesNotFit(SettingsError):
    """A run that needs more memory than its device has."""


class UnknownName(DiffrlError):
    """A name that no plugin has registered."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        super().__init__(f"no {kind} is called {shown(name)}.{did_you_mean(name, known)}{hint}")


class DuplicateName(DiffrlError):
    """Two plugins register one name for the same kind of component; neither is used by it.

    Args:
        kind: of component.
        name: that is claimed.
        owners: plugin, package and version of each that claims it.
    """

    def __init__(self, kind: str, name: str, owners: Sequence[tuple[str, str, str]]) -> None:
        claimed = " and ".join(f"{p} ({package} {v})" for p, package, v in owners)
        super().__init__(
            f"two plugins register {a(kind)} called {name!r}: {claimed}. "
            f"Uninstall one, or leave it out with DIFFRL_PLUGINS."
        )
        why = f"another plugin registers {a(kind)} called {name!r}, too"
        self.rows = [[*owner, why] for owner in owners]


class PluginError(DiffrlError):
    """A plugin does not implement the hooks as they are specified.

    Attributes:
        everywhere: whether every process of a run raises it at the same place.
    """

    everywhere = False


class CheckpointMissing(DiffrlError):
    """Weights that are neither on disk nor reachable."""


class CheckpointRefused(DiffrlError):
    """Weights that are there, but are not those that were pinned, or could run code."""


class ModelIncomplete(DiffrlError):
    """A model folder lacks a part that training needs."""


class PromptsError(DiffrlError):
    """A prompt list that cannot be read or is empty."""


class RunExists(DiffrlError):
    """The output folder already holds a run."""


class RewardError(DiffrlError):
    """A reward that fails, or gives something other than one finite score per picture."""

    exit_code = 3


class RewardUnreachable(RewardError):
    """A served reward whose server is silent, refuses or lies: no fault of any picture."""


class UnreadableData(DiffrlError):
    """A file to learn from that is damaged, which shows only when a run reads it as a whole."""

    exit_code = 3


class ResumeError(DiffrlError):
    """A run that cannot be continued."""


class CannotWrite(DiffrlError):
    """A disk that is full, or a folder that cannot be written to, while a run goes on."""

    exit_code = 3


class OutOfMemory(DiffrlError):
    """A device whose memory does not hold even the smallest piece of work."""

    exit_code = 3


class CompileFailed(DiffrlError):
    """A network that torch.compile cannot compile here."""


class Diverged(DiffrlError):
    """A run whose gradients are not finite, or that its watchdog has stopped."""

    exit_code = 3


class ProcessLost(DiffrlError):
    """One of the processes of a run has ended, so that the others cannot go on."""

    exit_code = 3


class Interrupted(DiffrlError):
    """A run that was asked to stop; `exit_code` is what shells give for the signal.

    Args:
        number: of the signal.
        message: for the user.
    """

    def __init__(self, number: int, message: str = "") -> None:
        self.number, self.exit_code = number, 128 + number
        super().__init__(message or f"stopped by {signal.Signals(number).name}")


def one_line(text: str) -> str:
    """Return a text of any origin as a message or a comment may hold it: no control characters."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def a(noun: str) -> str:
    """Return a noun behind its article."""
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


def quoted(path: object) -> str:
    """Return a path as a command that messages suggest takes it, whatever it holds."""
    return shlex.quote(str(path))


def shown(value: object, longest: int = 200) -> str:
    """Return a value as messages quote it, cut where it is too long to read."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= longest else f"{text[:longest]}…"


def did_you_mean(name: str, known: Iterable[str], limit: int = 12) -> str:
    """Return a hint that starts with a space: the nearest known names, or all of them."""
    names = sorted(set(known))
    near = get_close_matches(name, names, n=2, cutoff=0.55)
    if near:
        return f" Did you mean {' or '.join(near)}?"
    if not names:
        return ""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f" Known: {', '.join(names[:limit])}{more}."
