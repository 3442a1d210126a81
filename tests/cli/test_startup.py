"""How long it takes to begin, as a share of `import torch` in the same minute.

Measured on an idle machine (benchmarks/results/startup.json, `now`, warm): `--help` 0.10,
`list-plugins` 0.16, and training until its first sample 3.2 times as long. The limits leave room
for a busy machine.
"""

import subprocess
import sys
import time
from pathlib import Path

import pytest

import diffrl

ROOT = Path(diffrl.__file__).parent.parent
PATHS = f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'plugins')]!r}\n"
COMMAND = PATHS + "from diffrl.cli import main; main({argv!r})"
FIRST_SAMPLE = (
    PATHS
    + """
import os
from diffrl.builtin import samplers
samplers.Ddim.__call__ = lambda *given: os._exit(0)
from diffrl.cli import main
main({argv!r})
raise SystemExit("nothing was sampled")
"""
)


def best(codes, folder, repeats=3):
    """Return the least seconds of each program, run in turn."""
    found = {name: [] for name in codes}
    for turn in range(repeats):
        for name, code in codes.items():
            words = [sys.executable, "-c", code.replace("FOLDER", str(folder / str(turn)))]
            began = time.perf_counter()
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            found[name].append(time.perf_counter() - began)
            assert done.returncode == 0, done.stderr
    return {name: min(seconds) for name, seconds in found.items()}


@pytest.fixture(scope="module")
def seconds(tmp_path_factory):
    train = ["train", "--algo", "sdpo", "--reward", "pickscore", "--output", "FOLDER"]
    return best(
        {
            "torch": "import torch",
            "help": COMMAND.format(argv=["--help"]),
            "list-plugins": COMMAND.format(argv=["list-plugins"]),
            "first sample": FIRST_SAMPLE.format(argv=train),
        },
        tmp_path_factory.mktemp("runs"),
    )


@pytest.mark.parametrize(
    ("what", "share"), [("help", 0.2), ("list-plugins", 0.25), ("first sample", 4.0)]
)
def test_the_beginning_takes_a_share_of_importing_torch(what, share, seconds):
    assert seconds[what] <= share * seconds["torch"]
