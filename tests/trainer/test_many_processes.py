"""The same settings and seed train alike in one process and in several, whatever happens."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from diffrl.trainer import Run

HERE = Path(__file__).parent
ALGORITHMS = ("sdpo", "ddpo", "d3po", "rebel", "prdp", "prdp-rebel")
UNEVEN = (
    "train.trajectories=20",
    "train.sample_batch=8",
    "train.epochs=2",
    "eval.every=0",
    "optimizer.eps=1e-3",
    "optimizer.lr=1e-3",
)
"""Ten groups of two, or five of four; in four processes three and two, or two and one.

Adam gives every weight a step of one size, however small its gradient: with the usual eps it would
make rounding as large as the learning rate.
"""

ROUNDED = {"log_prob_gap": 2e-5, "ranked_right": 0.05, "clip_fraction": 0.05}
"""What is rounding, and shares of pairs or rows whose side of a limit rounding may decide."""

PICKY = "many_processes:picky"

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
    return {**os.environ, **own, **more}


def launched(*arguments, memory_ends="-1,-1", **options):
    """Train, and return what came of it."""
    words, around = command(*arguments, **options), environment(MEMORY_ENDS=memory_ends)
    return subprocess.run(words, capture_output=True, text=True, timeout=400, env=around)


def trained(folder, algorithms, sets, processes=1, reward="pickscore"):
    """Train in so many processes, and return what each of them has to say, by algorithm."""
    done = launched(folder, algorithms, sets, processes, reward)
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        algo: [
            torch.load(folder / f"{algo}-{rank}.pt", weights_only=True) for rank in range(processes)
        ]
        for algo in algorithms
    }


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


@pytest.fixture(scope="module")
def alone(tiny_sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return folder, trained(folder, ALGORITHMS, [*tiny_sets, *UNEVEN])


@pytest.fixture(scope="module")
def pair(tiny_sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return folder, trained(folder, ALGORITHMS, [*tiny_sets, *UNEVEN], processes=2)


def assert_alike(algo, alone, together, epochs=2):
    """Compare metrics, weights and statistics of a run in one process and in several."""
    one, several = (Run(folder / algo).metrics for folder, _ in (alone, together))
    assert len(one) == len(several) == epochs + 1
    for a, b in zip(one, several, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            tied = a["epoch"] == 1 and name.endswith("ranked_right")  # all log-ratios are zero
            if not name.startswith(TIMED) and not tied:
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


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_two_processes_train_as_one_does(algo, alone, pair):
    assert_alike(algo, alone, pair)


def test_a_run_goes_on_in_another_number_of_processes(alone, pair, tiny_sets, tmp_path):
    sets = [*tiny_sets, *UNEVEN, "train.epochs=3"]
    folder, _ = pair
    shutil.copytree(folder / "sdpo", tmp_path / "two-one" / "sdpo")
    fewer = tmp_path / "two-one", trained(tmp_path / "two-one", ["sdpo"], sets)
    folder, _ = alone
    shutil.copytree(folder / "sdpo", tmp_path / "one-two" / "sdpo")
    more = tmp_path / "one-two", trained(tmp_path / "one-two", ["sdpo"], sets, processes=2)
    assert_alike("sdpo", fewer, more, epochs=3)


def test_groups_without_scores_are_left_out_in_all_processes(tiny_sets, tmp_path):
    sets = [*(s for s in tiny_sets if "pickscore" not in s), *UNEVEN]
    sets += ["train.bad_scores=drop", "train.epochs=1"]
    one = tmp_path / "one", trained(tmp_path / "one", ["sdpo"], sets, reward=PICKY)
    two = tmp_path / "two", trained(tmp_path / "two", ["sdpo"], sets, processes=2, reward=PICKY)
    assert_alike("sdpo", one, two, epochs=1)
    assert 0 < Run(tmp_path / "one" / "sdpo").metrics[-1]["dropped"] < 20


def test_fewer_groups_than_processes_are_refused(tiny_sets, tmp_path):
    sets = [*tiny_sets, "train.trajectories=2"]
    done = launched(tmp_path, ["sdpo"], sets, processes=2)
    assert done.returncode != 0
    assert "makes 1 group(s) for 2 processes; expected at least one for each" in done.stderr


def test_a_process_that_dies_takes_the_run_down_within_a_minute(tiny_sets, tmp_path):
    sets = [*tiny_sets, "train.epochs=500", "checkpoint.every=1"]
    run = tmp_path / "sdpo"
    words = command(tmp_path, ["sdpo"], sets, processes=2)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        wait_for(lambda: (run / "checkpoints" / "2").is_dir())
        victim = children(process.pid)[-1]
        began = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        _, told = process.communicate(timeout=60)
    assert process.returncode != 0
    assert time.monotonic() - began < 60
    assert "another process of this run does not answer" in told
    assert "continue, in any number of processes, with: diffrl train --resume" in told
    epochs = len(Run(run).metrics)
    trained(tmp_path, ["sdpo"], [*sets, f"train.epochs={epochs + 1}"])
    assert [m["epoch"] for m in Run(run).metrics] == list(range(epochs + 2))


def test_memory_that_ends_in_one_process_takes_the_run_down_and_keeps_what_is_saved(
    tiny_sets, tmp_path
):
    sets = [*tiny_sets, "train.epochs=3", "checkpoint.every=1", "train.micro_batch=1"]
    sets += ["update_scheduler.per_update=2"]
    began = time.monotonic()
    done = launched(tmp_path, ["sdpo"], sets, processes=2, memory_ends="2,1")
    assert done.returncode != 0 and time.monotonic() - began < 90
    assert "process 1 of 2 is lost: memory ends even with train.micro_batch = 1" in done.stderr
    assert [p.name for p in (tmp_path / "sdpo" / "checkpoints").iterdir()] == ["1"]
    trained(tmp_path, ["sdpo"], sets)
    assert [m["epoch"] for m in Run(tmp_path / "sdpo").metrics] == [0, 1, 2, 3]


@pytest.mark.slow
def test_four_processes_train_as_one_does(alone, tiny_sets, tmp_path):
    together = tmp_path, trained(tmp_path, ALGORITHMS, [*tiny_sets, *UNEVEN], processes=4)
    for algo in ALGORITHMS:
        assert_alike(algo, alone, together)
