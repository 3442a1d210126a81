"""Signals are noted while a run goes on, and heeded again after it."""

import os
import signal
import subprocess
import sys

import pytest

from diffrl.trainer import interrupt

ENDS = """
import os, signal, time
from diffrl.errors import {error}
from diffrl.trainer.interrupt import Patience
try:
    with Patience():
        raise {error}("it ends")
finally:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
    print("it says why", flush=True)
    time.sleep(30)
"""


@pytest.mark.parametrize(("error", "says_why"), [("ProcessLost", True), ("OutOfMemory", False)])
def test_a_launcher_ends_no_process_before_it_says_which_one_is_lost(error, says_why):
    """But it ends it."""
    words = [sys.executable, "-c", ENDS.format(error=error)]
    found = subprocess.run(words, capture_output=True, text=True, timeout=60, env=os.environ)
    assert found.returncode == -signal.SIGTERM
    assert ("it says why" in found.stdout) is says_why


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
