"""Starts runs in one or several processes, and compares what came of them."""

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from diffrl import trainer
from diffrl.trainer import Run, loop

HERE = Path(__file__).parent
ALGORITHMS = ("sdpo", "ddpo", "d3po", "rebel+recomputed", "prdp", "prdp-rebel")
UNEVEN = (
    "train.trajectories=20",
    "train.sample_batch=8",
    "train.epochs=2",
    "eval.every=0",
    "train.track=[]",
    "optimizer.eps=1e-3",
    "optimizer.lr=1e-3",
)
"""Ten groups of two, or five of four; in four processes three and two, or two and one.

Adam gives every weight a step of one size, however small its gradient: with the usual eps it would
make rounding as large as the learning rate.
"""

FULL = (
    *UNEVEN,
    "train.trajectories=12",
    "adapter.kind=full",
    "optimizer.lr=1e-4",
    "train.micro_batch=1",
    "eval.every=1",
)
"""Six groups of two, or three of four: then one process has a group less, and fewer pieces."""

ROUNDED = {"log_prob_gap": 2e-5, "ranked_right": 0.05, "clip_fraction": 0.05}
"""What is rounding, and shares of pairs or rows whose side of a limit rounding may decide."""

TIMED = ("seconds", "samples_per_second")


def command(folder, algorithms, sets, processes=1, reward="pickscore"):
    """Return the command that trains in so many processes."""
    words = [sys.executable]
    if processes > 1:
        words += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    script, names = str(HERE / "many_processes.py"), ",".join(algorithms)
    return [*words, script, str(folder), names, reward, "model.device=cpu", *sets]


def environment(**more):
    """Return the environment of a process that trains on its share of the cores."""
    paths = os.pathsep.join([str(HERE), *sys.path])
    own = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": paths}
    own["PYTHONFAULTHANDLER"] = "1"  # or one that aborts says nothing
    return {**os.environ, **own, **more}


def launched(*arguments, memory_ends="-1,-1", tired="", **options):
    """Train, and return what came of it."""
    words, around = (
        command(*arguments, **options),
        environment(MEMORY_ENDS=memory_ends, TIRED=tired),
    )
    return subprocess.run(words, capture_output=True, text=True, timeout=400, env=around)


def trained(folder, algorithms, sets, processes=1, reward="pickscore"):
    """Train in so many processes, and return what each of them has to say, by algorithm.

    One is this process.
    """
    if processes == 1:
        trained_here(folder, algorithms, sets, reward)
    else:
        done = launched(folder, algorithms, sets, processes, reward)
        assert done.returncode == 0, done.stderr  # whole: the first words tell what began it
    return {
        algo: [
            torch.load(folder / f"{algo}-{rank}.pt", weights_only=True) for rank in range(processes)
        ]
        for algo in algorithms
    }


def trained_here(folder, algorithms, sets, reward):
    """Train in this process, as the others do in theirs."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        patch.setattr(trainer, "build", trainer.build)  # which is put back
        patch.setattr(trainer, "Heartbeat", trainer.Heartbeat)
        patch.setattr(loop, "keep_pace", loop.keep_pace)
        many_processes = importlib.import_module("many_processes")
        try:
            many_processes.main(folder, ",".join(algorithms), reward, ["model.device=cpu", *sets])
        finally:
            torch.set_num_threads(threads)


def wait_for(seen):
    for _ in range(1200):
        if seen():
            return
        time.sleep(0.1)
    raise AssertionError("waited two minutes")


def children(pid):
    """Return the processes that a launcher has started."""
    told = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in told]


def assert_alike(algo, alone, together, epochs=2):
    """Compare metrics, weights and statistics of a run in one process and in several."""
    one, several = (Run(folder / algo).metrics for folder, _ in (alone, together))
    assert len(one) == len(several) == epochs + 1
    for a, b in zip(one, several, strict=True):
        names = [{name for name in line if not name.startswith(TIMED)} for line in (a, b)]
        assert names[0] == names[1]  # of a process, its first run alone tells how long it began
        for name in names[0]:
            tied = a["epoch"] == 1 and name.endswith("ranked_right")  # all log-ratios are zero
            if not tied:
                close = next((at for part, at in ROUNDED.items() if part in name), 1e-6)
                assert b[name] == pytest.approx(a[name], rel=1e-3, abs=close), name
    (mine,) = alone[1][algo]
    for own in together[1][algo]:
        assert own["memory"].keys() == mine["memory"].keys()
        for key, value in mine["memory"].items():
            torch.testing.assert_close(own["memory"][key], value, rtol=1e-4, atol=1e-5)
        for name, weight in mine["weights"].items():
            torch.testing.assert_close(own["weights"][name], weight, rtol=0, atol=1e-5)
            assert torch.equal(own["weights"][name], together[1][algo][0]["weights"][name])
