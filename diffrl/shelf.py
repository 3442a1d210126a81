"""A run's checkpoints as folders: sealed with checksums, found, offered, kept and set aside."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from diffrl.errors import ResumeError, one_line, quoted
from diffrl.folder import CHECKPOINTS, REPORT, SETTINGS, read_metrics
from diffrl.paths import at_home, there
from diffrl.settings.saved import END

SUMS = "SHA256SUMS"
EPOCH = re.compile(r"(.+)@(\d+)")
ASIDE = "set-aside"


def place(folder: Path, epoch: int) -> Path:
    """Return where the checkpoint of an epoch lies."""
    return folder / CHECKPOINTS / str(epoch)


def saved(folder: Path) -> list[Path]:
    """Return a run's checkpoints, oldest first, damaged ones included."""
    found = [p for p in (folder / CHECKPOINTS).glob("*") if p.name.isdecimal() and p.is_dir()]
    return sorted(found, key=lambda p: int(p.name))


def newest(folder: Path) -> Path | None:
    """Return the newest checkpoint of a run, if it has one yet."""
    return next(reversed(saved(folder)), None)


def finished(folder: Path, epochs: int) -> bool:
    """Return whether a run has made and saved its last epoch.

    Its report, which is written after that, tells so even where checkpoints were deleted.
    """
    lines = read_metrics(folder)
    made = bool(lines) and lines[-1]["epoch"] >= epochs
    return made and (place(folder, lines[-1]["epoch"]).is_dir() or (folder / REPORT).is_file())


def seal(path: Path) -> None:
    """Write the checksums of all files in a folder, as `sha256sum` does, and sync everything."""
    files = sorted(f for f in path.rglob("*") if f.is_file() and f.name != SUMS)
    lines = [f"{_digest(f)}  {f.relative_to(path).as_posix()}\n" for f in files]
    (path / SUMS).write_text("".join(lines), "utf-8")
    for one in [*files, path / SUMS, *(d for d in path.rglob("*") if d.is_dir()), path]:
        sync(one)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def damage(path: Path) -> str | None:
    """Return what is wrong with a sealed folder, or None if every file is as it was written."""
    try:
        lines = (path / SUMS).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return f"{SUMS} is missing or cannot be read"
    rows = [re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in lines]
    if not rows or not all(rows):
        return f"{SUMS} is torn"
    for digest, name in [row.groups() for row in rows if row]:
        file = path / name
        if not file.resolve().is_relative_to(path.resolve()):
            return f"{SUMS} names {name}, which is not in that folder"
        if not file.is_file():
            return f"{name} is missing"
        if _digest(file) != digest:
            return f"{name} is not what was written (its SHA-256 is another)"
    return None


def _digest(file: Path) -> str:
    found = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def split(word: str | Path) -> tuple[Path, int | None]:
    """Return the folder and the epoch of `RUN` or `RUN@EPOCH`; a folder may itself hold an @."""
    path = Path(at_home(str(word)))
    found = None if there(path) else EPOCH.fullmatch(str(path))
    return (Path(found[1]), int(found[2])) if found else (path, None)


def chosen(folder: Path, epoch: int | None) -> Path | None:
    """Return the whole checkpoint to go on from: the newest, or that of an epoch; 0 is none.

    Raises:
        ResumeError: if it is not there or damaged, naming the newest that is whole.
    """
    found = saved(folder)
    if epoch == 0 or (epoch is None and not found):
        return None
    wanted = found[-1] if epoch is None else place(folder, epoch)
    if wanted not in found:
        known = ", ".join(p.name for p in found) or "none"
        raise ResumeError(f"no checkpoint of epoch {epoch} in {folder}; there are: {known}")
    if wrong := damage(wanted):
        raise ResumeError(f"the checkpoint {wanted} is damaged: {wrong}; {offer(folder, wanted)}")
    return wanted


def offer(folder: Path, bad: Path) -> str:
    """Return a sentence about the newest checkpoint that is whole, but for a bad one."""
    for path in reversed(saved(folder)):
        if path != bad and damage(path) is None:
            return (
                f"the newest whole one is of epoch {path.name}; "
                f"go on from it with: diffrl train --resume {quoted(f'{folder}@{path.name}')}"
            )
    return f"no other is whole; begin anew with: diffrl train --resume {quoted(f'{folder}@0')}"


def put(partial: Path, target: Path) -> None:
    """Give a finished folder its name; what had that name goes only when the new one is there."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def tidy(folder: Path) -> None:
    """Finish or undo what was interrupted when a checkpoint was written."""
    for old in (folder / CHECKPOINTS).glob(".*.old"):
        target = old.with_name(old.name[1 : -len(".old")])
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)
    for partial in (folder / CHECKPOINTS).glob(".*.partial"):
        shutil.rmtree(partial, ignore_errors=True)


def set_aside(folder: Path, epoch: int) -> list[Path]:
    """Rename the checkpoints after an epoch, the newest first, and return their new names."""
    moved = []
    for path in (p for p in reversed(saved(folder)) if int(p.name) > epoch):
        target, number = path.with_name(f"{path.name}.{ASIDE}"), 2
        while target.exists():
            target, number = path.with_name(f"{path.name}.{ASIDE}-{number}"), number + 1
        moved.append(path.rename(target))
    return moved


def prune(folder: Path, keep: int, best: str | None = None, also: Collection[int] = ()) -> None:
    """Delete checkpoints but for the newest `keep`, the best by a metric, and those in `also`.

    Args:
        folder: of the run.
        keep: how many newest stay; 0: all.
        best: metric of whose values the highest stays, too; with a minus before it, the lowest.
        also: epochs that stay, too.
    """
    if not keep:
        return
    found = saved(folder)
    stay = {int(p.name) for p in found[-keep:]} | set(also)
    if best:
        stay |= best_of(folder, best, [int(p.name) for p in found])
    for path in found:
        if int(path.name) not in stay:
            shutil.rmtree(path)


def best_of(folder: Path, metric: str, epochs: Sequence[int]) -> set[int]:
    """Return the epoch with the best value of a metric, of those that have one; else nothing."""
    sign, key = (-1, metric[1:]) if metric.startswith("-") else (1, metric)
    values = {
        m["epoch"]: sign * m[key] for m in read_metrics(folder) if m["epoch"] in epochs and key in m
    }
    return {max(values, key=lambda epoch: values[epoch])} if values else set()


def settings_of(folder: Path, verb: str = "resume") -> Path:
    """Return a run's settings file; `verb`: what is wanted of it, in messages.

    Raises:
        ResumeError: if there is none or it is cut off, naming a copy if a checkpoint keeps one.
    """
    path = folder / SETTINGS
    if there(folder / SUMS) is not None:
        whole = folder.resolve()
        hint = "expected a run's folder"
        if whole.name.isdecimal() and whole.parent.name == CHECKPOINTS:
            run = quoted(f"{whole.parent.parent}@{whole.name}")
            command = "train --resume" if verb == "resume" else "doctor"
            hint = f"name the run: diffrl {command} {run}"
        raise ResumeError(f"cannot {verb} {one_line(str(folder))}: it is a checkpoint; {hint}")
    found = there(path) is not None and path.is_file()
    if found and END.encode() in path.read_bytes()[-len(END) - 4 :]:
        return path
    what = f"{SETTINGS} is cut off" if found else f"no {SETTINGS} there"
    kept = reversed(saved(folder)) if there(folder) else ()
    copies = [p / SETTINGS for p in kept if damage(p) is None]
    hint = "no checkpoint keeps a copy; begin it again" if found else "expected a run's folder"
    if copies:
        hint = f"a copy of it is {copies[0]}"
    raise ResumeError(f"cannot {verb} {one_line(str(folder))}: {what}; {hint}")
