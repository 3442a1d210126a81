"""The core trainer: runs any recipe, and knows none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from diffrl import moments, shelf
from diffrl.errors import DiffrlError, ProcessLost, quoted
from diffrl.events import Noticed
from diffrl.folder import (
    METRICS,
    NOTICES,
    SETTINGS,
    check_free,
    claimed,
    create,
    given_back,
    read_lines,
    write,
)
from diffrl.registry import BUILTINS, registry
from diffrl.settings import Settings
from diffrl.settings.saved import changed, dump, load
from diffrl.speed.fitting import in_words
from diffrl.trainer import checkpoint, lock
from diffrl.trainer.agreement import by_the_first
from diffrl.trainer.anew import begin_anew
from diffrl.trainer.api import resume, train
from diffrl.trainer.disks import telling_of_disks
from diffrl.trainer.engines import settled
from diffrl.trainer.epochs import go
from diffrl.trainer.heartbeat import Heartbeat
from diffrl.trainer.interrupt import Patience, leave
from diffrl.trainer.live import LiveView, live_view
from diffrl.trainer.observers import FolderObserver
from diffrl.trainer.preflight import checked, refuse_another_past
from diffrl.trainer.run import Run
from diffrl.trainer.saving import notice, said_before
from diffrl.trainer.session import Session, build
from diffrl.trainer.trackers import TrackerObserver

if TYPE_CHECKING:
    from accelerate import Accelerator


DEAF = (
    "processes cannot reach the first one on a port that the system chooses: one that freezes or "
    "loses power keeps the others waiting for two hours"
)


def run(
    settings: Settings,
    output: Path | None = None,
    resume: Path | None = None,
    live: bool = False,
    at: int | None = None,
    anyway: bool = False,
) -> Run:
    """Run settings to their last epoch.

    Args:
        settings: resolved.
        output: the run's own folder, which must be free.
        resume: a run's folder, to go on from its newest checkpoint instead, or from the beginning
            if it has none yet.
        live: show a table (on a terminal) or lines.
        at: epoch of the checkpoint to go on from in place of the newest; 0: from the beginning.
        anyway: begin even if memory will not do, as far as that can be told before.

    Raises:
        DiffrlError: naming everything that is wrong, before any weights load; or why the run
            stopped, and how to continue it.
    """
    with moments.loading():
        session, start = _loaded(settings, output, resume, at, anyway)
    folder, observers = session.folder, _observers(session, live)
    with Patience() as patience:  # to the end: a launcher ends the others of a process that is gone
        session.ranks.asked = lambda: patience.asked
        try:
            with telling_of_disks(folder):
                if resume is None and session.ranks.is_main:
                    _take(folder)
                _begin(session, start)
                session.ranks.wait()
                lost = partial(_ended_by_silence, folder)
                with Heartbeat(session.ranks.exchange, lost) as heartbeat:
                    if heartbeat.deaf:
                        session.noted += [Noticed(session.epoch, "run", "deaf", DEAF)]
                    go(session)
                    session.ranks.wait()
        except ProcessLost as error:
            raise ProcessLost(
                f"{error}; continue, in any number of processes, with: diffrl train --resume "
                f"{quoted(folder)}"
            ) from error
        finally:
            _leave(session, observers)
    return Run(folder)


def _take(folder: Path) -> None:
    """Keep other runs from a folder; while weights were loaded, one may have taken it.

    Raises:
        DiffrlError: if one has.
    """
    check_free(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock.hold(folder)
    check_free(folder)


def _leave(session: Session, observers: Sequence[object]) -> None:
    """Close what was open, whatever became of the run, and let others have the folder."""
    with contextlib.suppress(OSError):  # of a full disk, which is told already
        notice(session, [_unclosed(session, line) for line in session.ranks.finish()])
    lock.let_go(session.folder)
    for observer in observers:
        registry().unregister(observer)
        if isinstance(observer, LiveView):
            with contextlib.suppress(Exception, SystemExit):  # of a pipe that is closed
                observer.close()


def _unclosed(session: Session, said: str) -> Noticed:
    return Noticed(session.epoch, "observer", f"closing:{said}", said)


def _ended_by_silence(folder: Path, said: str) -> None:
    """End this process, which may wait for another one for ever."""
    leave(
        ProcessLost.exit_code,
        f"error: {said}; continue, in any number of processes, with: diffrl train --resume "
        f"{quoted(folder)}",
    )


def _loaded(
    settings: Settings, output: Path | None, resume: Path | None, at: int | None, anyway: bool
) -> tuple[Session, Path | None]:
    """Return what runs, and the checkpoint that it goes on from, if any."""
    settings = settled(settings, os.environ)
    made, prompts = checked(settings, None if resume else output, resume, anyway)
    given = resume or output
    folder = Path(by_the_first(made, lambda: str(given or claimed(settings))))
    own = folder if made.is_main_process and given is None else None
    with given_back(own), _held_if_built(folder):
        start = _start(folder, at, made) if resume else None
        if start is not None:
            refuse_another_past(settings, folder, start, prompts[1])
        with in_words("memory ends in loading the models"):
            return build(settings, made, folder, prompts), start


@contextlib.contextmanager
def _held_if_built(folder: Path) -> Iterator[None]:
    """Let others have a run that cannot be built."""
    try:
        yield
    except BaseException:
        lock.let_go(folder)
        raise


def _start(folder: Path, at: int | None, made: Accelerator) -> Path | None:
    """Return the checkpoint to go on from, once what a kill left behind is put right."""

    def put_right() -> str:
        with telling_of_disks(folder):
            lock.hold(folder)
            shelf.tidy(folder)
        return ""

    by_the_first(made, put_right)
    return shelf.chosen(folder, at)


def _begin(session: Session, start: Path | None) -> None:
    """Restore a checkpoint, or make the folder of a run that begins; keep what is gone back on."""
    folder, ranks = session.folder, session.ranks
    if start is not None:
        session.go_on(checkpoint.load(start, session.policy, ranks, session.rng))
        session.noted += begin_anew(session, start)
    if not ranks.is_main:
        return
    shelf.set_aside(folder, session.epoch)  # first: a kill must not leave them to other settings
    if start is None:
        loaded = {
            name: f"{package} {version}"
            for name, (package, version, _) in registry().loaded.items()
            if package != "local" and name not in BUILTINS
        }
        create(folder, dump(session.settings), session.sources, loaded)
    else:
        for name in (METRICS, NOTICES):
            if (start / name).is_file():
                write(folder / name, (start / name).read_text("utf-8"))
            elif name == NOTICES:  # nothing was noticed until then
                (folder / name).unlink(missing_ok=True)
        session.told |= said_before(read_lines(folder / NOTICES))
        session.noted += other_settings(start, session)
        write(folder / SETTINGS, dump(session.settings))


def other_settings(start: Path, session: Session) -> list[Noticed]:
    """Return a notice of what a run goes on with that its checkpoint was not made with."""
    try:
        others = changed(load(start / SETTINGS), session.settings)
    except DiffrlError:  # a plugin that is gone, and that the run does without from now on
        return []
    if not others:
        return []
    message = f"the run goes on with other settings: {'; '.join(others)}"
    return [Noticed(session.epoch, "run", "settings", message, "noted")]


def _observers(session: Session, live: bool) -> list[object]:
    """Register the run's own observers: files always, a live view where asked for."""
    if not session.ranks.is_main:
        return []
    observers: list[object] = [FolderObserver(), TrackerObserver(session.ranks.accelerator)]
    if live:
        observers.append(live_view())
    for observer in observers:
        registry().register(observer)
    return observers


__all__ = ["Run", "resume", "run", "train"]
