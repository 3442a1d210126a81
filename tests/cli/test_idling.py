"""Threads that wait let other programs compute, unless the environment says how they wait."""

import os
import subprocess
import sys

import pytest

from diffrl.cli.idling import SPINS, yield_soon

SHOW = """
import os, sys
from diffrl.cli import main
try:
    main(["list-plugins"])
finally:
    print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("given", "wanted"),
    [({}, SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_what_the_environment_says_stays(given, wanted):
    yield_soon(found := dict(given))
    assert found.get("GOMP_SPINCOUNT") == wanted


def test_it_is_said_before_torch_is_loaded():
    """GNU OpenMP reads it once, at that moment."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    words = [sys.executable, "-c", SHOW]
    done = subprocess.run(words, capture_output=True, text=True, env=own, check=False)
    assert done.stderr.split() == [SPINS, "False"], done.stderr
