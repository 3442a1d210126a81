"""Where processes split weights, what fails in one of them ends all, and nothing is lost."""

import os
import signal
import subprocess

import pytest

from diffrl.trainer import Run

from .launching import FULL, children, command, environment, launched, trained, wait_for


@pytest.fixture(scope="module")
def full(tiny_sets):
    return [*tiny_sets, *FULL]


@pytest.mark.parametrize("phase", [pytest.param("evaluating", marks=pytest.mark.slow), "sampling"])
def test_a_reward_that_fails_in_one_process_stops_all_and_what_there_is_is_saved(
    phase, full, tmp_path
):
    sets = [*(s for s in full if "pickscore" not in s), "speed.shard=weights", "train.epochs=3"]
    reward = "many_processes:tired"
    done = launched(tmp_path, ["sdpo"], sets, processes=2, reward=reward, tired=phase)
    assert done.returncode != 0
    # in both; but the launcher may end the second before it has said so
    assert "tired of pictures); epoch 1 is saved; continue with" in done.stderr
    assert [p.name for p in (tmp_path / "sdpo" / "checkpoints").iterdir()] == ["1"]


def test_memory_that_ends_in_one_process_ends_all(full, tmp_path):
    sets = [*full, "speed.shard=weights", "update_scheduler.per_update=2"]
    done = launched(tmp_path, ["sdpo"], sets, processes=2, memory_ends="2,1")
    assert done.returncode != 0
    assert "process 1 of 2 is lost: memory ends with train.micro_batch = " in done.stderr
    assert "which processes that split weights cannot lower one by one" in done.stderr
    assert [p.name for p in (tmp_path / "sdpo" / "checkpoints").iterdir()] == ["1"]


def test_a_signal_to_one_process_stops_all_and_the_run_goes_on(full, tmp_path):
    sets = [*full, "speed.shard=weights", "train.epochs=500"]
    words = command(tmp_path, ["sdpo"], sets, processes=2)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        wait_for(lambda: (tmp_path / "sdpo" / "checkpoints" / "1").is_dir())
        os.kill(children(process.pid)[-1], signal.SIGINT)
        _, told = process.communicate(timeout=90)
    assert "is saved; continue with: diffrl train --resume" in told
    epochs = len(Run(tmp_path / "sdpo").metrics)
    trained(tmp_path, ["sdpo"], [*sets, f"train.epochs={epochs}"])
    assert [m["epoch"] for m in Run(tmp_path / "sdpo").metrics] == list(range(epochs + 1))
