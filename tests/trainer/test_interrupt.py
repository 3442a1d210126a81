"""Signals are noted while a run goes on, and heeded again after it."""

import os
import signal
import subprocess
import sys

import pytest

from diffrl.trainer import interrupt

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


def test_the_same_signal_from_two_senders_is_one(monkeypatch):
    left, now = [], [100.0]
    monkeypatch.setattr(interrupt, "leave", lambda code, said: left.append(code))
    monkeypatch.setattr(interrupt.time, "monotonic", lambda: now[0])
    with interrupt.Patience() as patience:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert patience.asked == signal.SIGTERM and not left
        now[0] += 2 * interrupt.TWICE
        os.kill(os.getpid(), signal.SIGTERM)
        assert left == [128 + signal.SIGTERM]


def test_another_signal_leaves_at_once(monkeypatch):
    left = []
    monkeypatch.setattr(interrupt, "leave", lambda code, said: left.append(code))
    with interrupt.Patience():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert left == [128 + signal.SIGTERM]
