"""Telling observers of a run what happens, and saving how far it has come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diffrl import shelf
from diffrl.errors import (
    CannotWrite,
    DiffrlError,
    Interrupted,
    OutOfMemory,
    PluginError,
    ProcessLost,
    RewardError,
    SettingsError,
    UnreadableData,
    quoted,
)
from diffrl.events import Noticed
from diffrl.registry import registry
from diffrl.trainer import checkpoint
from diffrl.trainer.session import Session
from diffrl.trainer.watchdog import GOOD

ONCE = ("check", "observer")
"""Who tells of each rule once."""


def tell(session: Session, hook: str, event: object) -> None:
    """Tell observers, who live in the first process; one that fails is noticed, and left out there.

    What writes the run's own folder, or does not even start, must not fail: its errors are the
    run's.
    """
    if not session.ranks.is_main:
        return
    failed = []
    for observer, told in registry().observers(hook):
        try:
            told(event=event)
        except (Exception, SystemExit) as error:  # rich exits where its pipe is closed
            if getattr(observer, "essential", False):
                raise
            failed.append(_failed(observer, hook, session.epoch, error))
    notice(session, failed)


def _failed(observer: object, hook: str, epoch: int, error: BaseException) -> Noticed:
    name = getattr(observer, "__name__", type(observer).__name__)
    closed = "nobody reads its output any more"
    words = closed if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
    cause = " ".join(words.split())[:200]
    said = f"observer {name!r} failed in {hook} ({cause}); the run goes on without that"
    return Noticed(epoch, "observer", f"observer:{name}", said)


def notice(session: Session, found: Sequence[Noticed]) -> None:
    """Tell observers what was noticed; of a check or observer that fails again and again, once."""
    for one in found:
        known = one.rule in session.told
        session.told |= {one.rule} if one.source in ONCE else set()
        if not known:
            tell(session, "diffrl_noticed", one)


def said_before(lines: Sequence[Mapping[str, object]]) -> set[str]:
    """Return the rules that a run's notices have told of, and need not again."""
    return {str(line.get("rule")) for line in lines if line.get("source") in ONCE}


def save(session: Session) -> None:
    """Write a checkpoint, and delete those that need not stay."""
    checkpoint.save(
        session.folder,
        session.pipeline.unet,
        session.policy,
        session.ranks,
        session.rng,
        session.position(),
    )
    session.saved = session.epoch
    kept = session.settings.checkpoint
    if session.ranks.is_main:
        good = {int(session.watch[GOOD])} if GOOD in session.watch else set[int]()
        shelf.prune(session.folder, kept.keep, kept.best, good)


def everywhere(session: Session, error: DiffrlError) -> bool:
    """Return whether all processes meet an error at the same place, so that all can go back."""
    if isinstance(error, ProcessLost | CannotWrite):
        return False
    if isinstance(error, RewardError | UnreadableData | Interrupted | OutOfMemory):
        return True
    known = isinstance(error, PluginError) and error.everywhere
    return known or session.ranks.count == 1  # otherwise the others wait elsewhere


def stopped(session: Session, error: DiffrlError) -> DiffrlError:
    """Save what there is, and return the error that says how to continue."""
    if session.epoch and (session.pending or session.saved != session.epoch):
        save(session)
        session.ranks.wait()  # the first to leave ends the others
    what = f"epoch {session.epoch} is saved" if session.epoch else "no epoch was finished"
    return again(error, f"{what}; continue with: diffrl train --resume {quoted(session.folder)}")


def note_after(session: Session, error: Exception) -> None:
    """Save what there is, and add to an error's traceback how to continue."""
    what = "the evaluation is still to be made" if session.pending else "the epoch was undone"
    told = str(stopped(session, PluginError(what)))
    add_note = getattr(error, "add_note", None)
    if add_note is not None:  # from Python 3.11 on
        add_note(told)


def again(error: DiffrlError, more: str) -> DiffrlError:
    """Return an error of the same kind that says more."""
    if isinstance(error, SettingsError) and error.problems:
        return SettingsError([*error.problems[:-1], f"{error.problems[-1]}; {more}"])
    if isinstance(error, Interrupted):
        return Interrupted(error.number, f"{error}; {more}")
    plain = type(error).__init__ is DiffrlError.__init__
    return (type(error) if plain else DiffrlError)(f"{error}; {more}")


def lost(session: Session, error: DiffrlError) -> DiffrlError:
    """Return the error of an epoch that is neither finished nor undone; nothing of it is saved."""
    where = f"epoch {session.saved} is saved" if session.saved else "no epoch is saved"
    return again(
        error,
        f"the weights are those of the middle of an epoch and are given up; {where}; "
        f"continue with: diffrl train --resume {quoted(session.folder)}",
    )
