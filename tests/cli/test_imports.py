"""Asking what there is must not load what trains."""

import subprocess
import sys
from pathlib import Path

import pytest

import diffrl

HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "PIL", "jaxtyping")
ROOT = Path(diffrl.__file__).parent.parent
SCRIPT = """
import sys
sys.path[:0] = {paths!r}
from diffrl.cli import main
try:
    main({argv!r})
except SystemExit as stopped:
    assert not stopped.code, stopped.code
print("loaded:", *[name for name in {heavy!r} if name in sys.modules])
"""


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["doctor", "--help"],
        ["plan", "--help"],
        ["list-plugins"],
        ["list-plugins", "--json"],
        ["presets"],
        ["show", "sdpo"],
        ["train", "--algo", "sdpo", "--reward", "pickscore", "--dry-run"],
    ],
    ids=" ".join,
)
def test_a_question_loads_nothing_heavy(argv):
    paths = [str(ROOT), str(ROOT / "plugins")]
    script = SCRIPT.format(paths=paths, argv=argv, heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "diffrl", "train", "--algo", "sdop"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: 2 problems in the settings:\n")
    assert "Traceback" not in done.stderr


def test_every_public_name_can_be_had():
    for name in diffrl.__all__:
        assert getattr(diffrl, name) is not None
    assert callable(diffrl.train)
    assert set(diffrl.__all__) <= set(dir(diffrl))
    with pytest.raises(AttributeError, match="has no attribute 'Recipee'"):
        _ = diffrl.Recipee
