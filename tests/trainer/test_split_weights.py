"""Processes that split weights between them train as one does that has them all."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from diffusers import UNet2DConditionModel

from diffrl.trainer import Run

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

FULL = (
    *UNEVEN,
    "train.trajectories=12",
    "adapter.kind=full",
    "optimizer.lr=1e-4",
    "train.micro_batch=2",
    "eval.every=1",
)
"""Six groups of two, or three of four; several pieces of each minibatch, not as many in each."""

KINDS = {algo: ("weights", "gradients")[number % 2] for number, algo in enumerate(ALGORITHMS)}


@pytest.fixture(scope="module")
def full(tiny_sets):
    return [*tiny_sets, *FULL]


@pytest.fixture(scope="module")
def alone(full, tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    return folder, trained(folder, ALGORITHMS, full)


@pytest.fixture(scope="module")
def split(full, tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("split"), {}
    for kind in ("weights", "gradients"):
        algorithms = [algo for algo in ALGORITHMS if KINDS[algo] == kind]
        found |= trained(folder, algorithms, [*full, f"speed.shard={kind}"], processes=2)
    return folder, found


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_split_weights_train_as_whole_ones_do(algo, alone, split):
    assert_alike(algo, alone, split)
    (one,), parts = alone[1][algo], [own["held"] for own in split[1][algo]]
    assert sum(parts) == one["held"] and max(parts) < 0.6 * one["held"]


@pytest.mark.parametrize("algo", ["sdpo", "ddpo"])
def test_a_checkpoint_of_split_weights_is_whole(algo, split):
    folder, found = split
    checkpoint = Run(folder / algo).checkpoints[-1]
    loaded = UNet2DConditionModel.from_pretrained(checkpoint / "unet", use_safetensors=True)
    weights = found[algo][0]["weights"]
    assert {n for n, _ in loaded.named_parameters()} == weights.keys()
    for name, weight in loaded.named_parameters():
        assert torch.equal(weight, weights[name])


def test_a_run_goes_on_with_whole_weights_and_the_other_way_round(alone, split, full, tmp_path):
    sets = [*full, "train.epochs=3"]
    shutil.copytree(split[0] / "sdpo", tmp_path / "whole" / "sdpo")
    whole = tmp_path / "whole", trained(tmp_path / "whole", ["sdpo"], sets)
    shutil.copytree(alone[0] / "sdpo", tmp_path / "split" / "sdpo")
    sets = [*sets, "speed.shard=gradients"]
    parts = tmp_path / "split", trained(tmp_path / "split", ["sdpo"], sets, processes=2)
    assert_alike("sdpo", whole, parts, epochs=3)


@pytest.mark.parametrize("phase", ["evaluating", "sampling"])
def test_a_reward_that_fails_in_one_process_stops_all_and_what_there_is_is_saved(
    phase, full, tmp_path
):
    sets = [*(s for s in full if "pickscore" not in s), "speed.shard=weights", "train.epochs=3"]
    reward = "many_processes:tired"
    done = launched(tmp_path, ["sdpo"], sets, processes=2, reward=reward, tired=phase)
    assert done.returncode != 0
    assert done.stderr.count("tired of pictures); epoch 1 is saved; continue with") == 2
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


def test_groups_without_scores_are_left_out_and_memory_is_saved(full, tmp_path):
    sets = [*(s for s in full if "pickscore" not in s), "speed.low_memory=true"]
    sets += ["train.bad_scores=drop", "train.epochs=1", "train.trajectories=20"]
    reward = "many_processes:picky"
    one = tmp_path / "one", trained(tmp_path / "one", ["sdpo"], sets, reward=reward)
    sets += ["speed.shard=weights"]
    two = tmp_path / "two", trained(tmp_path / "two", ["sdpo"], sets, processes=2, reward=reward)
    assert_alike("sdpo", one, two, epochs=1)
    assert 0 < Run(tmp_path / "one" / "sdpo").metrics[-1]["dropped"] < 20


def test_accelerates_launcher_decides_what_is_split(full, tmp_path):
    words = command(tmp_path, ["sdpo"], [*full, "train.epochs=1", "eval.every=0"])
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    launcher += ["--use_fsdp", "--fsdp_version", "2", "--fsdp_reshard_after_forward", "false"]
    launcher += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    words = [*launcher, "--dynamo_backend", "no", *words[1:]]
    done = subprocess.run(words, capture_output=True, text=True, timeout=400, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    assert Run(tmp_path / "sdpo").settings.speed.shard == "gradients"
    found = [torch.load(tmp_path / f"sdpo-{n}.pt", weights_only=True) for n in (0, 1)]
    every = sum(weight.numel() for weight in found[0]["weights"].values())
    assert sum(one["held"] for one in found) == every > max(one["held"] for one in found)
