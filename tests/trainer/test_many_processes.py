"""The same settings and seed train alike in one process and in several, whatever happens."""

import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

from diffrl.errors import SettingsError
from diffrl.settings.resolve import resolve
from diffrl.trainer import Run, run
from diffrl.trainer.ranks import Ranks

from .launching import (
    ALGORITHMS,
    UNEVEN,
    assert_alike,
    children,
    command,
    environment,
    launched,
    trained,
    wait_for,
)

PICKY = "many_processes:picky"


@pytest.fixture(scope="module")
def alone(tiny_sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return folder, trained(folder, ALGORITHMS, [*tiny_sets, *UNEVEN])


@pytest.fixture(scope="module")
def pair(tiny_sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return folder, trained(folder, ALGORITHMS, [*tiny_sets, *UNEVEN], processes=2)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_two_processes_train_as_one_does(algo, alone, pair):
    assert_alike(algo, alone, pair)


@pytest.mark.slow
def test_a_run_goes_on_in_another_number_of_processes(alone, pair, tiny_sets, tmp_path):
    sets = [*tiny_sets, *UNEVEN, "train.epochs=3"]
    folder, _ = pair
    shutil.copytree(folder / "sdpo", tmp_path / "two-one" / "sdpo")
    fewer = tmp_path / "two-one", trained(tmp_path / "two-one", ["sdpo"], sets)
    folder, _ = alone
    shutil.copytree(folder / "sdpo", tmp_path / "one-two" / "sdpo")
    more = tmp_path / "one-two", trained(tmp_path / "one-two", ["sdpo"], sets, processes=2)
    assert_alike("sdpo", fewer, more, epochs=3)


@pytest.mark.slow
def test_groups_without_scores_are_left_out_in_all_processes(tiny_sets, tmp_path):
    sets = [*(s for s in tiny_sets if "pickscore" not in s), *UNEVEN]
    sets += ["train.bad_scores=drop", "train.epochs=1"]
    one = tmp_path / "one", trained(tmp_path / "one", ["sdpo"], sets, reward=PICKY)
    two = tmp_path / "two", trained(tmp_path / "two", ["sdpo"], sets, processes=2, reward=PICKY)
    assert_alike("sdpo", one, two, epochs=1)
    assert 0 < Run(tmp_path / "one" / "sdpo").metrics[-1]["dropped"] < 20


def test_fewer_groups_than_processes_are_refused(tiny_sets, tmp_path, monkeypatch):
    settings = resolve("sdpo", ["pickscore"], sets=[*tiny_sets, "train.trajectories=2"])
    said = r"makes 1 group\(s\) for 2 processes; expected at least one for each"
    with monkeypatch.context() as patch:
        patch.setattr(Ranks, "count", 2)
        with pytest.raises(SettingsError, match=said):
            run(settings, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "lacking", [pytest.param("the folder", marks=pytest.mark.slow), "some weights"]
)
def test_a_process_that_cannot_begin_ends_those_of_other_machines(lacking, tiny_sets, tmp_path):
    """Where no launcher sees both: each would watch its own processes only."""
    ref = next(one for one in tiny_sets if one.startswith("model.ref="))
    own = tmp_path / "other machine"
    if lacking == "some weights":
        shutil.copytree(ref.partition("=")[2], own)
        weights = next((own / "unet").glob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:-100])
    sets = [tiny_sets, [f"model.ref={own}" if one == ref else one for one in tiny_sets]]
    port = str(free_port())
    processes = [
        subprocess.Popen(
            command(tmp_path, ["sdpo"], sets[rank]),
            stderr=subprocess.PIPE,
            text=True,
            env=environment(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
                MASTER_ADDR="127.0.0.1", MASTER_PORT=port,
            ),
        )
        for rank in range(2)
    ]  # fmt: skip
    whole, torn = [process.communicate(timeout=60)[1] for process in processes]
    assert all(process.returncode for process in processes)
    said = "no model at" if lacking == "the folder" else "cannot load the model"
    assert said in torn.splitlines()[-1] and said in whole.splitlines()[-1]
    assert "diffrl.errors.DiffrlError: process 1 of 2: " in whole
    assert not (tmp_path / "sdpo").exists()


def free_port():
    """Return a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


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


@pytest.mark.parametrize("where", ["2,1", pytest.param("2,1,recomputing", marks=pytest.mark.slow)])
def test_memory_that_ends_in_one_process_takes_the_run_down_and_keeps_what_is_saved(
    where, tiny_sets, tmp_path
):
    sets = [*tiny_sets, "train.epochs=3", "checkpoint.every=1", "train.micro_batch=1"]
    sets += ["update_scheduler.per_update=2", "speed.recompute=on"]
    began = time.monotonic()
    done = launched(tmp_path, ["sdpo"], sets, processes=2, memory_ends=where)
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
