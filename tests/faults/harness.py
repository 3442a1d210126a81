"""Starts runs, lets something happen to them at chosen moments, continues them, and compares."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

import diffrl
from diffrl.shelf import damage, newest, saved
from diffrl.trainer import checkpoint

from .zygote import PHASES, Diary

HERE = Path(__file__).parent
ROOT = Path(diffrl.__file__).parents[1]
KEPT = ("trained", "old", "optimizer", "memory", "random", "watch")
LONGEST = 120


class Zygote:
    """Forks `diffrl` processes."""

    def __init__(self, folder, **environment):
        paths = [str(ROOT), str(ROOT / "plugins"), str(HERE.parent / "serve")]
        self.folder = Path(folder)
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "zygote.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
                **environment,
            },
        )
        assert self._answer() == {"ready": True}
        self._number = 0

    def start(self, *argv, most=None):
        """Return a new process; `most`: bytes that its files may have."""
        self._number += 1
        files = {n: str(self.folder / f"{self._number}.{n}") for n in ("out", "err", "diary")}
        diary = Diary(files["diary"])
        pid = self._ask({"argv": [str(word) for word in argv], "most": most, **files})["pid"]
        return Victim(self, pid, diary, Path(files["err"]))

    def status(self, pid):
        """Wait for a process to end; return its code, negative for a signal."""
        return os.waitstatus_to_exitcode(self._ask({"wait": pid})["status"])

    def stop(self):
        """End it."""
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(30)

    def _ask(self, order):
        print(json.dumps(order), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self):
        return json.loads(self.process.stdout.readline())


@dataclass
class Victim:
    """A running process."""

    zygote: Zygote
    pid: int
    diary: Diary
    err: Path

    def await_phase(self, phase, times):
        """Wait until a phase has begun so many times; return whether it was seen."""
        number, until = PHASES.index(phase), time.monotonic() + LONGEST
        while time.monotonic() < until and alive(self.pid):
            if self.diary.count(number) >= times:
                return True
            time.sleep(0.0002)
        return False

    def end(self, *signals, pause=0.0):
        """Send signals, one after the other, and return how the process ended."""
        for number in signals:
            if alive(self.pid):
                os.kill(self.pid, number)
            time.sleep(pause)
        return self.zygote.status(self.pid)

    @property
    def said(self):
        """What it wrote on stderr."""
        return self.err.read_text()


def alive(pid):
    """Return whether a process runs; one that ended and was not yet asked for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass
class Whole:
    """A run that nothing happened to: its arguments, its folder, how often each phase began."""

    argv: tuple
    folder: Path
    counts: dict
    seconds: float


@dataclass
class Tally:
    """What was done to runs, and how many went on to the same end."""

    blows: dict = field(default_factory=dict)
    survived: int = 0

    def add(self, kind, phase):
        """Count a blow."""
        key = f"{kind} while {phase}"
        self.blows[key] = self.blows.get(key, 0) + 1

    @property
    def made(self):
        """How many blows."""
        return sum(self.blows.values())


def whole(zygote, argv, folder):
    """Return the run that nothing happens to."""
    began = time.monotonic()
    victim = zygote.start(*argv, "--output", folder)
    code = zygote.status(victim.pid)
    assert code == 0, victim.said
    counts = {p: victim.diary.count(i) for i, p in enumerate(PHASES)}
    return Whole(tuple(argv), folder, counts, time.monotonic() - began)


def strike(zygote, reference, folder, rng, kind, tally, phase=None):
    """Let something happen to a run that begins or goes on; return whether it was in time."""
    resumed = (folder / "settings.toml").exists()
    words = go_on(folder) if resumed else [*reference.argv, "--output", folder]
    phase = phase or rng.choice(PHASES[1:])
    victim = zygote.start(*words)
    most = max(1, reference.counts[phase] // (2 if resumed else 1))
    if not victim.await_phase(phase, rng.randint(1, most)):
        zygote.status(victim.pid)
        return False
    time.sleep(rng.random() * rng.choice((0.0, 0.002, 0.02, 0.2)))
    seen = PHASES[victim.diary.phase]
    HARM[kind](victim, folder, rng)
    tally.add(kind, seen)
    return True


def killed(victim, folder, rng):
    """No process can do anything about this."""
    assert victim.end(signal.SIGKILL) in (-signal.SIGKILL, 0)


def cut(victim, folder, rng):
    """The power fails: the files that were written last are shorter than they should be."""
    killed(victim, folder, rng)
    files = [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size]
    files.sort(key=lambda p: p.stat().st_mtime_ns)
    for file in files[-rng.randint(1, 3) :]:
        os.truncate(file, rng.randrange(file.stat().st_size))


def asked(number):
    """Return a blow that a process notices, ends its step, saves, and leaves with its code."""

    def blow(victim, folder, rng):
        code = victim.end(number)
        assert code in (128 + number, 0, -number), victim.said
        assert "Traceback" not in victim.said, victim.said
        if code == 128 + number:
            assert "continue with: diffrl train --resume" in victim.said or (
                "interrupted" in victim.said
            ), victim.said
            at = re.search(r"epoch (\d+) is saved", victim.said)
            if at:
                assert newest(folder).name == at[1]

    return blow


def asked_twice(victim, folder, rng):
    """Somebody does not want to wait."""
    began = time.monotonic()
    code = victim.end(signal.SIGINT, signal.SIGTERM, pause=0.005)
    assert code in (128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM, 0), victim.said
    assert time.monotonic() - began < 10


HARM = {
    "SIGKILL": killed,
    "power cut": cut,
    "SIGTERM": asked(signal.SIGTERM),
    "SIGINT": asked(signal.SIGINT),
    "two signals": asked_twice,
}


def go_on(folder):
    """Return the arguments that continue a run."""
    return ["train", "--resume", folder]


def finish(zygote, reference, folder):
    """Continue a run to its end, doing what messages say; begin it if it never began."""
    words = go_on(folder) if (folder / "settings.toml").exists() else None
    if words is None:
        words = [*reference.argv, "--output", folder]  # killed before its settings were written
    for _ in range(4):
        victim = zygote.start(*words)
        code = zygote.status(victim.pid)
        if code == 0:
            return
        assert code == 2, (code, victim.said)
        if offered := re.search(r"diffrl train --resume (\S+)", victim.said):
            words = ["train", "--resume", offered[1]]
        elif copy := re.search(r"a copy of it is (\S+)", victim.said):
            shutil.copy(copy[1], folder / "settings.toml")
        elif "begin it again" in victim.said:
            shutil.rmtree(folder)
            words = [*reference.argv, "--output", folder]
        else:
            raise AssertionError(victim.said)
    raise AssertionError(victim.said)


def assert_same(reference, folder):
    """Weights, optimizer, randomness, memory and metrics are those of the run left alone."""
    last = newest(reference.folder)
    one, other = (
        checkpoint.read(f / "checkpoints" / last.name) for f in (reference.folder, folder)
    )
    for name in KEPT:
        assert equal(one[name], other[name]), name
    assert untimed(reference.folder) == untimed(folder)
    assert all(damage(path) is None for path in saved(folder))
    assert (folder / "images" / "before-after.png").stat().st_size > 0
    assert not list((folder / "checkpoints").glob(".*"))


def untimed(folder):
    """Return a run's metrics without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in m.items() if "second" not in k} for m in lines]


def equal(one, other):
    """Return whether two nested values are the same, tensors to the last bit."""
    if torch.is_tensor(one):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return set(one) == set(other) and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def seeded(number):
    """Return a generator for one series of blows."""
    return random.Random(number)
