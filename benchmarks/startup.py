"""Measures how long diffrl takes to begin: `--help`, `list-plugins`, and training.

    python -m benchmarks.startup [--repeats 7] [--name now]

Writes `benchmarks/results/startup.json`: medians in seconds, each in a process of its own, beside
those of a bare `import torch` that was run in turn with them. Training ends where the first picture
is about to be sampled. `warm` is with all files in memory; `cold` with the environment's files
given up before every start, as far as the system lets a program do that. With `--name before` the
figures of an older checkout are kept beside those of now.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.default_run import machine
from diffrl.folder import environment

RESULT = Path(__file__).parent / "results" / "startup.json"
TORCH = "import torch"
COMMAND = "from diffrl.cli import main; main({argv!r})"
FIRST_SAMPLE = """
import os
from diffrl.builtin import samplers
samplers.Ddim.__call__ = lambda *given: os._exit(0)
from diffrl.cli import main
main({argv!r})
raise SystemExit("nothing was sampled")
"""
TRAIN = ["train", "--algo", "sdpo", "--reward", "pickscore", "--output"]


def main() -> None:
    """Start everything several times in turn, so that a busy minute touches all alike."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--cold", type=int, default=5, help="starts without files in memory")
    parser.add_argument("--name", default="now", help="now, or before")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    for name in starts():
        seconds(name)  # compiles modules, and fetches files into memory
    found = {
        "environment": {k: v for k, v in environment().items() if k != "command"},
        "machine": machine(),
        "warm": in_turn(options.repeats, cold=False),
        "cold": in_turn(options.cold, cold=True),
    }
    kept = json.loads(options.output.read_text("utf-8")) if options.output.exists() else {}
    options.output.write_text(json.dumps({**kept, options.name: found}, indent=1) + "\n", "utf-8")
    for how in ("warm", "cold"):
        for name, row in found[how].items():
            print(f"{how} {name:13} {row['median']:.2f} s, {row['of_torch']:.2f} of import torch")


def starts() -> dict[str, str]:
    """Return what is started, as Python code."""
    train = [*TRAIN, str(Path(tempfile.mkdtemp()) / "run")]
    return {
        "import torch": TORCH,
        "help": COMMAND.format(argv=["--help"]),
        "list-plugins": COMMAND.format(argv=["list-plugins"]),
        "first sample": FIRST_SAMPLE.format(argv=train),
    }


def in_turn(repeats: int, cold: bool) -> dict[str, Any]:
    """Return the seconds of every start, their median, and its ratio to that of torch."""
    taken: dict[str, list[float]] = {name: [] for name in starts()}
    for _ in range(repeats):
        for name, found in taken.items():
            if cold:
                give_up_files()
            found.append(seconds(name))
    torch = statistics.median(taken["import torch"])
    return {
        name: {
            "median": round(statistics.median(found), 3),
            "of_torch": round(statistics.median(found) / torch, 3),
            "seconds": [round(one, 3) for one in found],
        }
        for name, found in taken.items()
    }


def seconds(name: str) -> float:
    """Return how long a process takes from its start to its end."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", starts()[name]], capture_output=True, text=True)
    taken = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    return taken


def give_up_files() -> None:
    """Let the system forget the content of the files of this environment and checkout."""
    for root in {sys.prefix, sys.base_prefix, str(Path(__file__).parents[1])}:
        for folder, _, names in os.walk(root):
            if not folder.startswith(("/proc", "/sys")):
                for name in names:
                    _give_up(os.path.join(folder, name))


def _give_up(path: str) -> None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError:
        pass
    finally:
        os.close(file)


if __name__ == "__main__":
    main()
