"""Signals are noted while a run goes on, and heeded again after it."""

import os
import signal
import subprocess
import sys

import pytest

ENDS = """
import os, signal
from diffrl.errors import {error}
from diffrl.trainer.interrupt import Patience
try:
    with Patience():
        raise {error}("it ends")
finally:
    os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize(
    ("error", "ended_by", "says_why"),
    [("ProcessLost", 1, True), ("OutOfMemory", -signal.SIGTERM, False)],
)
def test_a_launcher_ends_no_process_before_it_says_which_one_is_lost(error, ended_by, says_why):
    words = [sys.executable, "-c", ENDS.format(error=error)]
    found = subprocess.run(words, capture_output=True, text=True, timeout=60, env=os.environ)
    assert found.returncode == ended_by
    assert ("it ends" in found.stderr) is says_why
