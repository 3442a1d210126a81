"""Processes that fall silent without a word: frozen, or on a machine that is gone."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from diffrl.folder import NOTICES, read_lines
from diffrl.trainer import heartbeat, train
from diffrl.trainer.exchange import Exchange
from diffrl.trainer.heartbeat import Heartbeat

from .launching import children, command, environment, wait_for


class Alone(Exchange):
    """What a heartbeat knows of its process and the others."""

    def __init__(self, rank, count):
        self.rank, self.count = rank, count


class Board:
    """A store of keys and values that does not always answer."""

    def __init__(self):
        self.values, self.answers = {}, threading.Event()
        self.answers.set()

    def set(self, key, value):
        self.answers.wait()
        self.values[key] = value.encode()

    def get(self, key):
        return self.values[key]

    def check(self, keys):
        return all(key in self.values for key in keys)

    def multi_get(self, keys):
        return [self.values[key] for key in keys]


class Others:
    """Processes that beat, each until it is told to be silent."""

    def __init__(self, board, *ranks):
        self.ranks, self._board, self._count = set(ranks), board, 0
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self):
        while self.ranks:
            self._count += 1
            for rank in list(self.ranks):
                self._board.values[str(rank)] = str(self._count).encode()
            time.sleep(0.02)


@pytest.fixture
def listening(monkeypatch):
    """Returns a board, the processes 0 and 2 of 3, and what process 1 is told and hears."""
    monkeypatch.setattr(heartbeat, "TICK", 0.2)
    board, told = Board(), []
    others = Others(board, 0, 2)
    one = Heartbeat(Alone(1, 3), told.append, silence=1.5, beat=0.05)
    one.begin(board)
    yield board, others, told
    one.__exit__(None, None, None)
    others.ranks.clear()
    board.answers.set()


def test_who_is_heard_of_is_not_lost_and_who_is_silent_is(listening):
    board, others, told = listening
    time.sleep(2.5)
    assert told == [] and int(board.values["1"]) > 5
    others.ranks.remove(2)
    wait_for(lambda: told)
    assert told == ["process 2 of 3 has not been heard of for 2 seconds"]


def test_a_store_that_does_not_answer_is_the_first_process_lost(listening):
    board, _, told = listening
    wait_for(lambda: "1" in board.values)
    board.answers.clear()
    wait_for(lambda: told)
    assert told == ["process 0 of 3 has not been heard of for 2 seconds"]


def test_a_process_that_was_stopped_itself_counts_anew(listening, monkeypatch):
    """As when a whole job is stopped and continued."""
    board, _, told = listening
    wait_for(lambda: "1" in board.values)
    plain = time.monotonic
    board.answers.clear()  # nothing was heard meanwhile
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: plain() + 60)
    time.sleep(0.7)
    board.answers.set()
    time.sleep(0.5)
    assert told == []


def test_a_run_whose_processes_cannot_hear_of_each_other_says_so(monkeypatch, tiny_sets, tmp_path):
    monkeypatch.setattr(heartbeat, "connected", lambda exchange: None)
    with Heartbeat(Alone(1, 2), pytest.fail) as one:
        assert one.deaf
    monkeypatch.setattr(Heartbeat, "deaf", True)
    done = train("sdpo", "pickscore", sets=tiny_sets, epochs=1, output=tmp_path / "run", live=False)
    (said,) = [n["message"] for n in read_lines(done.folder / NOTICES) if n["rule"] == "deaf"]
    assert said.endswith("keeps the others waiting for two hours")


ENDING = """
import sys, time
from datetime import timedelta
from torch import distributed
from diffrl.trainer.exchange import Exchange
from diffrl.trainer.heartbeat import Heartbeat

class First(Exchange):
    def __init__(self):
        self.rank, self.count = 0, 2

class Slow:
    def __init__(self):
        self.store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    def set(self, key, value):
        self.store.wait(["never"], timedelta(seconds=1))

beats = Heartbeat(First(), sys.exit)
beats.begin(Slow())
time.sleep(0.9)
beats.__exit__()
"""


def test_a_process_does_not_end_in_the_middle_of_a_sign_of_life():
    """Where an answer comes to C++ while Python ends, the whole process aborts."""
    done = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_process_has_nobody_to_listen_for():
    with Heartbeat(Alone(0, 1), pytest.fail) as one:
        assert one._store is None and not one.deaf


def test_a_frozen_process_ends_the_others(tiny_sets, tmp_path):
    """Its connections stay open, so that nobody would hear of it for hours."""
    sets = [*tiny_sets, "train.epochs=500", "checkpoint.every=1"]
    run = tmp_path / "sdpo"
    words = command(tmp_path, ["sdpo"], sets, processes=2)
    around = environment(SILENCE="4")
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=around) as process:
        wait_for(lambda: (run / "checkpoints" / "1").is_dir())
        other, victim = children(process.pid)[-2:]
        os.kill(victim, signal.SIGSTOP)
        began = time.monotonic()
        wait_for(lambda: "State:\tZ" in status(other))
        assert time.monotonic() - began < 30
        os.kill(victim, signal.SIGKILL)
        _, told = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "error: process 1 of 2 has not been heard of for 4 seconds; continue, in any" in told
    assert f"diffrl train --resume {run}" in told


def status(pid):
    """Return what the system says of a process; a zombie's where it is gone."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return file.read()
    except OSError:
        return "State:\tZ"
