"""Processes that split weights between them train as one does that has them all."""

import shutil
import subprocess
import sys

import pytest
import torch
from diffusers import UNet2DConditionModel

from diffrl.trainer import Run

from .launching import ALGORITHMS, FULL, assert_alike, command, environment, trained

KINDS = {algo: ("weights", "gradients")[number % 2] for number, algo in enumerate(ALGORITHMS)}
SOME = ("sdpo", "ddpo", "prdp")


@pytest.fixture(scope="module")
def full(tiny_sets):
    return [*tiny_sets, *FULL]


def whole_and_split(folder, algorithms, sets):
    """Train with whole weights in one process, and with split ones in two."""
    (whole := folder / "whole").mkdir()
    (split := folder / "split").mkdir()
    alone, found = trained(whole, algorithms, sets), {}
    for kind in ("weights", "gradients"):
        own = [algo for algo in algorithms if KINDS[algo] == kind]
        found |= trained(split, own, [*sets, f"speed.shard={kind}"], processes=2)
    return (whole, alone), (split, found)


@pytest.fixture(scope="module")
def trainings(full, tmp_path_factory):
    return whole_and_split(tmp_path_factory.mktemp("full"), SOME, full)


@pytest.fixture(scope="module")
def alone(trainings):
    return trainings[0]


@pytest.fixture(scope="module")
def split(trainings):
    return trainings[1]


@pytest.mark.parametrize("algo", SOME)
def test_split_weights_train_as_whole_ones_do(algo, alone, split):
    assert_split_alike(algo, alone, split)


@pytest.mark.slow
def test_those_of_the_other_algorithms_do_so_too(full, tmp_path):
    others = [algo for algo in ALGORITHMS if algo not in SOME]
    alone, split = whole_and_split(tmp_path, others, full)
    for algo in others:
        assert_split_alike(algo, alone, split)


def assert_split_alike(algo, alone, split):
    assert_alike(algo, alone, split)
    (one,), parts = alone[1][algo], [own["held"] for own in split[1][algo]]
    assert sum(parts) == one["held"] and max(parts) < 0.6 * one["held"]


@pytest.mark.slow
def test_whole_weights_keep_their_layout_in_two_processes(alone, full, tmp_path):
    """A fused optimizer goes through weight and gradient side by side in memory."""
    sets = [*full, "speed.channels_last=true", "optimizer.fused=on"]
    assert_alike("ddpo", alone, (tmp_path, trained(tmp_path, ["ddpo"], sets, processes=2)))


def test_a_process_with_less_to_do_keeps_pace(split):
    assert sorted(own["idle"] > 0 for own in split[1]["prdp"]) == [False, True]


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


def test_log_probs_are_recomputed_in_step_groups_left_out_and_memory_saved(full, tmp_path):
    """PRDP has five groups, less those without scores: one process has more than the other."""
    sets = [*(s for s in full if "pickscore" not in s), "speed.low_memory=true"]
    sets += ["train.bad_scores=drop", "train.epochs=1", "train.trajectories=20"]
    sets, reward = [*sets, "speed.recompute=on"], "many_processes:picky"
    one = tmp_path / "one", trained(tmp_path / "one", ["prdp"], sets, reward=reward)
    sets += ["speed.shard=weights"]
    two = tmp_path / "two", trained(tmp_path / "two", ["prdp"], sets, processes=2, reward=reward)
    assert_alike("prdp", one, two, epochs=1)
    metrics = Run(tmp_path / "two" / "prdp").metrics[-1]
    assert 0 < metrics["dropped"] < 20 and metrics["log_prob_gap/sampling"] < 1e-5


@pytest.mark.slow
def test_accelerates_launcher_decides_what_is_split(full, tmp_path):
    words = command(tmp_path, ["sdpo"], [*full, "train.epochs=1", "eval.every=0"])
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    launcher += ["--use_fsdp", "--fsdp_version", "2", "--fsdp_reshard_after_forward", "false"]
    launcher += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    words = [*launcher, "--dynamo_backend", "no", *words[1:]]
    done = subprocess.run(words, capture_output=True, text=True, timeout=400, env=environment())
    assert done.returncode == 0, done.stderr
    assert Run(tmp_path / "sdpo").settings.speed.shard == "gradients"
    found = [torch.load(tmp_path / f"sdpo-{n}.pt", weights_only=True) for n in (0, 1)]
    every = sum(weight.numel() for weight in found[0]["weights"].values())
    assert sum(one["held"] for one in found) == every > max(one["held"] for one in found)
