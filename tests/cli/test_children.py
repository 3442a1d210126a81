"""Runs in processes of their own are stopped with their parent, and may save."""

import os
import signal
import sys
import time

import pytest

from diffrl.cli.children import as_interrupts, begin, end

SAVES = """
import signal, sys, time
def save(*_):
    time.sleep(0.3)
    print("saved", flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""


def test_processes_are_asked_to_stop_and_waited_for(tmp_path):
    logs = [tmp_path / "new" / f"{n}.log" for n in range(2)]
    running = [begin([sys.executable, "-c", SAVES], log, threads=1) for log in logs]
    while not all(log.read_text() for log in logs):
        time.sleep(0.02)
    assert {os.getsid(one.pid) for one in running}.isdisjoint({os.getsid(0)})
    end(running)
    assert [log.read_text().split() for log in logs] == [["ready", "saved"]] * 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_to_stop_interrupt_but_not_those_that_are_ignored(number):
    before = signal.signal(number, signal.SIG_DFL)  # under nohup it may be ignored
    try:
        with pytest.raises(KeyboardInterrupt), as_interrupts():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN)
        with as_interrupts():
            signal.raise_signal(number)
    finally:
        signal.signal(number, before)
