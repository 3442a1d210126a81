"""Every installed algorithm trains through the real trainer."""

import pytest
import torch

import diffrl
from diffrl.errors import FitError, SettingsError
from diffrl.registry import registry
from diffrl.settings.resolve import resolve
from diffrl.trainer import checkpoint

INSTALLED = registry().components("algorithm")
ALGORITHMS = [name for name, entry in INSTALLED.items() if entry.package == "diffrl"]


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_two_epochs_move_the_weights_and_start_on_policy(algo, tiny_sets, tmp_path):
    sets = [*tiny_sets, "eval.every=0", "eval.images=2"]
    run = diffrl.train(algo, "pickscore", sets=sets, epochs=2, output=tmp_path / "run", live=False)
    for line in run.metrics[1:]:
        assert line["log_prob_gap/max"] < 1e-5
        assert line["grad_norm"] > 0 and line["updates"] >= 1
        assert line["samples"] == 8 * line["epoch"]
    state = checkpoint.read(run.checkpoints[-1])
    assert all(w.isfinite().all() for w in state["trained"].values())
    assert any(w.abs().max() > 0 for n, w in state["trained"].items() if "lora_B" in n)


@pytest.mark.parametrize("algo", ["ddpo", "d3po", "rebel", "prdp"])
def test_dense_rewards_train_every_algorithm(algo, tiny_sets, tmp_path):
    sets = [*tiny_sets, "reward_predictor=anchors", "per=prompt-step", "eval.every=0"]
    sets += ["sampler.steps=4", "sampler.lengths=[]"]
    run = diffrl.train(algo, "pickscore", sets=sets, epochs=1, output=tmp_path / "run", live=False)
    last = run.metrics[-1]
    assert 8 < last["reward_queries"] <= 3 * 8 and last["grad_norm"] > 0  # shared ones once
    assert last["log_prob_gap/max"] < 1e-5


@pytest.mark.parametrize("algo", ["ddpo", "d3po"])
def test_guidance_is_used_in_sampling_and_training_alike(algo, tiny_sets, tmp_path):
    sets = [*tiny_sets, "model.guidance=5", "eval.every=0", "eval.images=2"]
    run = diffrl.train(algo, "pickscore", sets=sets, epochs=1, output=tmp_path / "run", live=False)
    assert run.metrics[-1]["log_prob_gap/max"] < 1e-5 and run.metrics[-1]["grad_norm"] > 0
    plain = diffrl.train(
        algo, "pickscore", sets=[*sets, "model.guidance=1"], epochs=1, output=tmp_path / "plain",
        live=False,
    )  # fmt: skip
    same = "reward/pickscore/mean"
    assert run.metrics[-1][same] != plain.metrics[-1][same]


@pytest.mark.parametrize("algo", ["d3po", "prdp"])
def test_full_finetuning_keeps_a_reference(algo, tiny_sets, tmp_path):
    """The base is a copy of the weights: its log-probs do not move with the live ones."""
    sets = [*tiny_sets, "adapter.kind=full", "optimizer.lr=1e-3", "eval.every=0"]
    run = diffrl.train(algo, "pickscore", sets=sets, epochs=2, output=tmp_path / "run", live=False)
    moved = "loss/base_log_ratio_mean" if algo == "prdp" else "loss/ranked_right"
    assert run.metrics[1]["log_prob_gap/max"] < 1e-5
    assert run.metrics[2][moved] != run.metrics[1][moved]


def test_several_rewards_make_pareto_preferences(tiny_sets, tiny_clip, tmp_path):
    from safetensors.torch import save_file

    head = tmp_path / "head.safetensors"
    save_file({"layers.0.weight": torch.randn(1, 16), "layers.0.bias": torch.ones(1)}, head)
    sets = [
        *(s for s in tiny_sets if "trajectories" not in s),
        "train.trajectories=32",
        f"rewards.aesthetic.checkpoint={head}",
        f"rewards.aesthetic.clip={tiny_clip}",
    ]
    rewards = ["pickscore", "aesthetic"]
    run = diffrl.train("d3po", rewards, sets=sets, epochs=1, output=tmp_path / "run", live=False)
    assert 0 < run.metrics[-1]["loss/preferred"] < 1


@pytest.mark.parametrize("algo", ["sdpo", "ddpo", "rebel"])
def test_consistency_models_are_trained_by_swapping_the_sampler(algo, tiny_sets, tmp_path):
    from diffrl.testing.tiny import save_tiny_pipeline

    model = save_tiny_pipeline(tmp_path / "model", embedded=16)
    sets = [
        *(s for s in tiny_sets if not s.startswith("model.ref")),
        f"model.ref={model}", "sampler=lcm", "model.guidance=8", "eval.steps=[1, 4]",
    ]  # fmt: skip
    run = diffrl.train(algo, "pickscore", sets=sets, epochs=2, output=tmp_path / "run", live=False)
    last = run.metrics[-1]
    assert last["log_prob_gap/max"] < 1e-5 and last["grad_norm"] > 0
    assert last["eval/pickscore/1-step"] != run.metrics[0]["eval/pickscore/1-step"]


@pytest.mark.parametrize("algo", ["sdpo", "ddpo", "rebel"])
def test_epochs_of_mixed_lengths(algo, tiny_sets, tmp_path):
    own = [s for s in tiny_sets if not s.startswith("sampler.steps")]
    sets = [*own, "sampler.lengths=[2, 4]", "eval.every=0", "eval.images=2"]
    run = diffrl.train(algo, "pickscore", sets=sets, epochs=4, output=tmp_path / "run", live=False)
    lines = run.metrics[1:]
    assert all(line["log_prob_gap/max"] < 1e-5 for line in lines)
    state = checkpoint.read(run.checkpoints[-1])
    assert {steps for _, steps, _ in state["memory"]} == {2, 4}
    if algo == "sdpo":  # an optimizer step for each step of the denoising
        assert [line["updates"] for line in lines] == [1, 3, 1, 3]
    assert run.settings.recipe.sampler.lengths == (2, 4)


def test_every_length_must_leave_something_to_train():
    sets = ["sampler.lengths=[4, 1]", "update_scheduler.skip_last=1"]
    with pytest.raises(
        FitError, match=r"none of the sampler's 1 step\(s\).*raise sampler\.lengths"
    ):
        resolve("sdpo", ["pickscore"], sets=sets)


def test_every_length_must_suit_the_sampler():
    sets = ["sampler=lcm", "sampler.lengths=[4, 1]", "update_scheduler.skip_last=0"]
    with pytest.raises(SettingsError, match=r"sampler\.lengths holds 1: .* draws no noise"):
        resolve("ddpo", ["pickscore"], sets=sets)
    with pytest.raises(
        SettingsError, match=r"sampler\.lengths holds 80: .* less than or equal to 50"
    ):
        resolve("ddpo", ["pickscore"], sets=["sampler=lcm", "sampler.lengths=[4, 80]"])


def test_a_consistency_model_of_one_step_is_refused():
    with pytest.raises(SettingsError, match=r"sampler\.steps=1 draws no noise"):
        resolve("ddpo", ["pickscore"], sets=["sampler=lcm", "sampler.steps=1"])
