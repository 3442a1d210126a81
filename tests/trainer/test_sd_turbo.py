"""The paper's set-up on a pipeline of the same classes, small and with random weights."""

import math

import pytest

from diffrl.trainer import train


@pytest.fixture(scope="module")
def small(tiny_model, tiny_clip):
    return [
        f"model.ref={tiny_model}",
        "model.size=16",
        f"rewards.pickscore.checkpoint={tiny_clip}",
        "train.micro_batch=16",
        "train.sample_batch=64",
        "eval.images=2",
        "eval.steps=[1]",
    ]


def test_an_epoch_of_fewer_trajectories_makes_the_published_number_of_steps(small, tmp_path):
    """16 of 256 and 10 steps of 50; `tests/unit` counts the updates of all."""
    run = train(
        "sdpo",
        "pickscore",
        preset="sd-turbo",
        sets=[
            *small,
            "model.precision=fp32",
            "train.trajectories=16",
            "sampler.steps=10",
            "update_scheduler.per_update=4",
        ],
        epochs=1,
        output=tmp_path / "run",
        live=False,
    )
    last = run.metrics[-1]
    assert last["updates"] == 10 * 2
    assert last["samples"] == 16
    assert 2 * 16 <= last["reward_queries"] <= 3 * 16
    assert last["log_prob_gap/max"] < run.settings.recipe.loss.log_ratio_limit / 10


def test_half_precision_keeps_the_adapter_in_fp32(small, tmp_path):
    from safetensors.torch import load_file

    run = train(
        "sdpo",
        "pickscore",
        preset="sd-turbo",
        sets=[*small, "model.precision=bf16", "sampler.steps=4", "train.trajectories=8"],
        epochs=1,
        output=tmp_path / "run",
        live=False,
    )
    weights = load_file(run.checkpoints[-1] / "pytorch_lora_weights.safetensors")
    assert {str(w.dtype) for w in weights.values()} == {"torch.float32"}
    assert all(math.isfinite(v) for v in run.metrics[-1].values())
