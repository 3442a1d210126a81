"""Runs in two processes, and runs with a served reward, are killed and go on."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from diffrl.shelf import newest, split
from diffrl.trainer import checkpoint

from .harness import ROOT, Tally, assert_same, equal, finish, seeded, strike, untimed

SERVE = ROOT / "tests" / "serve"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="session")
def server():
    """A reward in a process of its own."""
    port = free_port()
    words = [sys.executable, "-m", "diffrl.serve", "scorers:bright", "--port", str(port)]
    paths = os.pathsep.join([str(SERVE), str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": paths})
    for _ in range(600):
        with socket.socket() as knock:
            if not knock.connect_ex(("127.0.0.1", port)):
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


def test_a_run_with_a_served_reward_survives(server, zygote, reference, tmp_path):
    whole, rng, tally = reference("sdpo", f"taste={server}"), seeded(3), Tally()
    folder = tmp_path / "run"
    for kind in ("SIGKILL", "SIGTERM", "power cut"):
        strike(zygote, whole, folder, rng, kind, tally)
        if not (folder / "settings.toml").exists():
            shutil.rmtree(folder, ignore_errors=True)
    finish(zygote, whole, folder)
    assert_same(whole, folder)
    assert tally.made >= 1


LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def launched(*words):
    """Return two processes of one run, under torchrun."""
    return subprocess.Popen(
        [*LAUNCH, "-m", "diffrl", "train", *map(str, words)],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")]),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def together(sets, tmp_path_factory):
    """A run of two processes that nothing happens to."""
    words = ["--algo", "sdpo", "--reward", "pickscore", "--device", "cpu", *sets]
    folder = tmp_path_factory.mktemp("together") / "run"
    process = launched(*words, "--output", folder)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]
    return words, folder


@pytest.mark.slow
@pytest.mark.parametrize("blow", range(8))
def test_two_processes_survive(blow, together, tmp_path):
    """One or both are killed, or asked to stop, at a random moment after training began."""
    words, whole = together
    folder, rng = tmp_path / "run", random.Random(blow)
    process = launched(*words, "--output", folder)
    until = time.monotonic() + 120
    while len(lines(folder)) < rng.randint(1, 4) and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(rng.random())
    workers = children(process.pid)
    assert len(workers) >= 2
    if blow % 4 == 0:
        os.kill(process.pid, signal.SIGTERM)  # torchrun passes it on
    elif blow % 4 == 1:
        os.kill(workers[blow % 2], signal.SIGKILL)
    elif blow % 4 == 2:
        for pid in [*workers, process.pid]:
            os.kill(pid, signal.SIGKILL)
    else:
        os.kill(workers[1], signal.SIGTERM)  # one of them alone: both stop
    process.communicate(timeout=60)  # within a minute, all have left
    place, _ = split(folder)
    again = launched("--resume", place)
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0, said[-3000:]
    last = newest(whole).name
    one, other = (checkpoint.read(f / "checkpoints" / last) for f in (whole, folder))
    for name in ("trained", "old", "optimizer", "memory", "random"):
        assert equal(one[name], other[name]), name
    assert untimed(whole) == untimed(folder)
    assert torch.is_tensor(next(iter(one["trained"].values())))


def lines(folder):
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(x) for x in path.read_text().splitlines() if x.endswith("}")]


def children(pid):
    """Return the processes that another has started."""
    path = f"/proc/{pid}/task/{pid}/children"
    with open(path) as file:
        return [int(one) for one in file.read().split()]
