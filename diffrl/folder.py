"""A run's folder: what is in it, and how it is written so that nothing is ever half there."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from diffrl.errors import DiffrlError, RunExists, quoted, shown
from diffrl.settings import Settings
from diffrl.settings.absent import ENVIRONMENT

SETTINGS, METRICS = "settings.toml", "metrics.jsonl"
NOTICES = "notices.jsonl"
LOCK, PARTIAL = ".lock", ".partial"
REPORT, EVALUATION = "report.html", "evaluation.json"
IMAGES, CHECKPOINTS, EVALUATIONS = "images", "checkpoints", "evaluations"
PACKAGES = (
    "diffrl torch diffusers transformers peft accelerate pydantic pluggy open-clip-torch numpy"
).split()


def claimed(settings: Settings, root: Path = Path("runs")) -> Path:
    """Make `runs/<algo>-<reward>-<date>`, counted up if that is taken, and return it.

    Of runs that begin in the same second, each gets a folder of its own.

    Raises:
        RunExists: if none can be made.
    """
    rewards = "+".join(r.reward.name for r in settings.rewards) or "data"
    stamp = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    name = f"{settings.recipe.name}-{rewards}-{stamp}"
    folder, number = root / name, 1
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
            folder = root / f"{name}~{number}"
        except OSError as error:
            raise RunExists(f"cannot write {shown(str(folder))}: {error}") from None


@contextlib.contextmanager
def given_back(folder: Path | None) -> Iterator[None]:
    """Remove a folder that was claimed, if what should fill it fails before it does."""
    try:
        yield
    except BaseException:
        if folder is not None:
            with contextlib.suppress(OSError):  # something is in there
                folder.rmdir()
                folder.parent.rmdir()
        raise


def check_free(folder: Path) -> None:
    """Refuse a folder that holds another run, or something else.

    Raises:
        RunExists: saying how to continue that run, or that nothing can be written there.
    """
    try:
        _check_free(folder)
    except (OSError, ValueError) as error:  # a name that is too long, a null byte
        raise RunExists(f"cannot write {shown(str(folder))}: {error}") from None


def _check_free(folder: Path) -> None:
    if (folder / SETTINGS).exists():
        raise RunExists(
            f"{folder} already holds a run. Continue it with --resume {quoted(folder)}, or choose "
            f"another --output"
        )
    if folder.is_symlink() and not folder.exists():
        raise RunExists(f"{folder} is a link to nothing; choose another --output")
    if folder.exists() and not (folder.is_dir() and all(map(_unborn, folder.iterdir()))):
        raise RunExists(f"{folder} exists and is not empty; choose another --output")
    if why := _unwritable(folder):
        raise RunExists(f"cannot write {folder}: {why}")


def _unborn(path: Path) -> bool:
    """Return whether something in a folder is what a run leaves that ended before it began."""
    if path.name in (IMAGES, CHECKPOINTS):
        return path.is_dir() and not any(path.iterdir())
    if path.name == ENVIRONMENT:  # which comes after those
        return (path.parent / IMAGES).is_dir() and (path.parent / CHECKPOINTS).is_dir()
    return path.name in (LOCK, f".{ENVIRONMENT}{PARTIAL}", f".{SETTINGS}{PARTIAL}")


def check_file(path: Path) -> None:
    """Refuse a file that cannot be written, before there is anything to write.

    Raises:
        DiffrlError: saying why.
    """
    try:
        why = "it is a folder" if path.is_dir() else _unwritable(path.parent)
    except (OSError, ValueError) as error:  # a name that is too long, a null byte
        why = str(error)
    if why:
        raise DiffrlError(f"cannot write {shown(str(path))}: {why}")


def _unwritable(folder: Path) -> str | None:
    """Return why a folder cannot be made or written to, if so."""
    nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK):
        return None
    return f"{nearest} is no folder that can be written to"


def create(
    folder: Path,
    settings_text: str,
    sources: Mapping[str, str],
    plugins: Mapping[str, str] | None = None,
) -> None:
    """Make the folder of a new run; write its settings, and its environment with its sources.

    Args:
        folder: of the run.
        settings_text: of all settings.
        sources: what came from a hub, with its commit.
        plugins: that were loaded, with package and version.
    """
    content = {**environment(), "plugins": dict(plugins or {}), "sources": dict(sources)}
    for name in (IMAGES, CHECKPOINTS):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write(folder / ENVIRONMENT, json.dumps(content, indent=2) + "\n")
    write(folder / SETTINGS, settings_text)


def evaluation_file(folder: Path, epoch: int) -> Path:
    """Return where a run records what an epoch's evaluation found of every picture."""
    return folder / EVALUATIONS / f"{epoch:05d}.json"


def write(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    partial = path.with_name(f".{path.name}{PARTIAL}")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def environment() -> dict[str, Any]:
    """Return versions, commit and machine, for the record."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "date": datetime.now().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {p: _version(p) for p in PACKAGES},
        "commit": _commit(),
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": gpus,
        },
        "command": " ".join(sys.argv[:1] and [Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the checkout that diffrl runs from, if it runs from one."""
    here = Path(__file__).resolve().parents[1]
    if not (here / ".git").exists():
        return None
    words = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        asked = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return None
    return asked.stdout.strip() or None


def short_commit(name: str | None) -> str:
    """Return the beginning of a commit's name, and whether files had been changed."""
    if not name:
        return "–"
    return name[:10] + (" with changed files" if name.endswith("-dirty") else "")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the epochs of `metrics.jsonl`, what is broken or no number left out."""
    lines = [
        {name: value for name, value in line.items() if is_number(value)}
        for line in read_lines(folder / METRICS)
    ]
    return [line for line in lines if isinstance(line.get("epoch"), int)]


def is_number(value: Any) -> bool:
    """Return whether a value that was read is a number that a float can hold; nan and inf are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 2**63


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the JSON objects of a file with one a line; what is torn or none is left out."""
    lines = []
    for line in _written(path):
        try:
            lines.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return [line for line in lines if isinstance(line, dict)]


def count_lines(path: Path) -> int:
    """Return how many lines of a file hold something, torn ones among them."""
    return len(_written(path))


def _written(path: Path) -> list[str]:
    if not path.is_file():
        return []
    lines = path.read_text("utf-8", errors="replace").split("\n")
    return [line for line in lines if line.strip()]


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises:
        ValueError: if it cannot be read or holds something else.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, found {type(found).__name__}")
    return found


def append_line(path: Path, content: Mapping[str, Any]) -> None:
    """Add a JSON object to such a file, and wait until it is on the disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")
        file.flush()
        os.fsync(file.fileno())
