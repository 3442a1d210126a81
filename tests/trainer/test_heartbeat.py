"""Processes that fall silent without a word: frozen, or on a machine that is gone."""

import os
import signal
import subprocess
import threading
import time

import pytest

from diffrl.trainer import heartbeat
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


@pytest.fixture
def listening(monkeypatch):
    """Returns what process 1 of 3 is told, by a board that 0 and 2 may write on."""
    monkeypatch.setattr(heartbeat, "TICK", 0.02)
    board, told, done = Board(), [], []

    def begin():
        one = Heartbeat(Alone(1, 3), told.append, silence=0.4, beat=0.02)
        one.begin(board)
        done.append(one)
        return one

    yield board, told, begin
    for one in done:
        one.__exit__(None, None, None)
    board.answers.set()


def beat(board, ranks, seconds):
    began, count = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        count += 1
        for rank in ranks:
            board.values[str(rank)] = str(count).encode()
        time.sleep(0.02)


def test_who_is_heard_of_is_not_lost_and_who_is_silent_is(listening):
    board, told, begin = listening
    begin()
    beat(board, (0, 2), 0.8)
    assert told == [] and int(board.values["1"]) > 5
    beat(board, (0,), 0.8)
    assert told == ["process 2 of 3 has not been heard of for 0 seconds"]


def test_a_store_that_does_not_answer_is_the_first_process_lost(listening):
    board, told, begin = listening
    begin()
    beat(board, (0, 2), 0.2)
    board.answers.clear()
    beat(board, (0, 2), 0.8)
    assert told == ["process 0 of 3 has not been heard of for 0 seconds"]


def test_a_process_that_was_stopped_itself_counts_anew(listening, monkeypatch):
    """As when a whole job is stopped and continued."""
    board, told, begin = listening
    skipped, plain = [0.0], time.monotonic
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: plain() + skipped[0])
    begin()
    beat(board, (0, 2), 0.1)
    skipped[0] = 60.0
    time.sleep(0.2)
    beat(board, (0, 2), 0.5)
    assert told == []


def test_one_process_has_nobody_to_listen_for():
    before = threading.active_count()
    with Heartbeat(Alone(0, 1), pytest.fail):
        assert threading.active_count() == before


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
