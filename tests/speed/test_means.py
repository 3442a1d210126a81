"""Every means of speed and memory gives what the plain way gives, as far as a CPU shows."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch.autograd.graph import saved_tensors_hooks

import diffrl
from diffrl.errors import SettingsError
from diffrl.pipeline import decoder, fit_attention
from diffrl.settings import OptimizerSettings, SpeedSettings
from diffrl.speed.formats import multiply_in_tf32
from diffrl.speed.memory import moved, put_text_encoder_away
from diffrl.trainer.loop import log_prob_gap
from diffrl.trainer.speed import adamw, ready

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from peak import Peak

CLIP = 1e-4
"""The published clip range; the log-prob gap should be below a tenth of it."""


def prepared(**speed):
    return lambda pipeline: ready(pipeline, SpeedSettings(**speed))


def gap(world, rollout=None):
    batch = world.batch(world.rollout() if rollout is None else rollout)
    with torch.no_grad():
        return float((world.policy.log_prob(batch) - batch.log_prob).abs().max())


MEANS = [
    {"fused_adapters": "on"},
    {"attention": "fused"},
    {"attention": "plain"},
    {"channels_last": True},
    {"half_norms": True},
    {"low_memory": True},
    {"channels_last": True, "low_memory": True, "attention": "fused"},
]


@pytest.mark.parametrize("means", MEANS, ids=lambda means: "+".join(means))
def test_pictures_log_probs_and_gradients_are_those_of_the_plain_way(means, world, same_gradients):
    usual, other = world(), world(prepare=prepared(**means))
    one, two = usual.rollout(), other.rollout()
    torch.testing.assert_close(two.x0, one.x0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(two.path.log_prob, one.path.log_prob, rtol=0, atol=CLIP / 100)
    images = [decoder(w.pipeline.vae)(one.x0) for w in (usual, other)]
    torch.testing.assert_close(images[1], images[0], rtol=1e-4, atol=1e-5)
    batch = usual.batch(one)
    (found, gradients), (wanted, others) = other.gradients(batch), usual.gradients(batch)
    torch.testing.assert_close(found, wanted, rtol=0, atol=CLIP / 100)
    assert same_gradients(gradients, others, rtol=1e-3)
    assert gap(other, two) < CLIP / 10


def test_the_gap_is_that_of_the_network_as_the_loss_calls_it(plain, monkeypatch):
    """As a compiled network: with gradient it is another program, which may round differently."""
    batch, forward = plain.batch(plain.rollout(), steps=((0,), (1,))), plain.unet.forward
    plain.policy.log_prob(batch)
    assert float(log_prob_gap(plain.policy.seen, batch).max()) < CLIP / 10

    def rounded(*args, **options):
        off = 1e-2 if torch.is_grad_enabled() else 0.0
        return (forward(*args, **options)[0] * (1 + off),)

    monkeypatch.setattr(plain.unet, "forward", rounded)
    plain.policy.log_prob(batch)
    found = log_prob_gap(plain.policy.seen, batch)
    assert float(found.max()) > CLIP and not found.requires_grad


def test_a_loss_that_computes_no_log_prob_has_no_gap(plain):
    batch = plain.batch(plain.rollout(), steps=((0,), (1,)))
    assert log_prob_gap(None, batch) is None
    plain.policy.log_prob(replace(batch, log_prob=None), weights="base")
    assert plain.policy.seen is None


def test_convolutions_are_given_and_give_channels_last(world):
    made = world(prepare=prepared(channels_last=True))
    seen = []
    for network in (made.unet.conv_in, made.pipeline.vae.decoder.conv_in):
        network.register_forward_hook(lambda _, args, out: seen.extend([args[0], out]))
    decoder(made.pipeline.vae)(made.rollout().x0)
    assert seen and all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)
    weights = [m.weight for m in made.unet.modules() if isinstance(m, torch.nn.Conv2d)]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


def test_norms_give_half_precision_and_stay_near_those_in_fp32(world):
    usual, made = world("bf16"), world("bf16", prepare=prepared(half_norms=True))
    given = []
    for module in made.unet.modules():
        if isinstance(module, torch.nn.GroupNorm | torch.nn.LayerNorm):
            module.register_forward_hook(lambda _, args, out: given.append(out.dtype))
    one, two = usual.rollout(), made.rollout()
    assert set(given) == {torch.bfloat16}
    assert float((two.x0 - one.x0).std() / one.x0.std()) < 0.05
    assert gap(made, two) < CLIP / 10
    found, gradients = made.gradients(made.batch(two))
    assert bool(found.isfinite().all())
    assert all(g.dtype == torch.float32 and bool(g.isfinite().all()) for g in gradients.values())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("auto", AttnProcessor), ("plain", AttnProcessor), ("fused", AttnProcessor2_0)],
)
def test_attention_is_the_one_asked_for_and_plain_on_a_cpu_otherwise(kind, expected, plain):
    fit_attention(plain.unet, kind)
    assert {type(p) for p in plain.unet.attn_processors.values()} == {expected}


def test_activations_are_recomputed_and_take_less_memory(world):
    kept = []
    for means in ({}, {"low_memory": True}):
        made, peak = world(prepare=prepared(**means)), Peak()
        batch = made.batch(made.rollout(), steps=((0,), (1,)))
        with saved_tensors_hooks(peak.keep, peak.give):
            made.policy.log_prob(batch).sum().backward()
        kept.append(peak.most)
    assert kept[1] < 0.6 * kept[0]


def test_with_low_memory_pictures_are_decoded_one_by_one(world):
    made, sizes = world(prepare=prepared(low_memory=True)), []
    made.pipeline.vae.decoder.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    decoder(made.pipeline.vae)(made.rollout().x0)
    assert sizes == [1, 1, 1, 1]


def test_prompts_are_encoded_before_the_text_encoder_is_put_away(plain):
    calls = []
    plain.pipeline.text_encoder.register_forward_hook(lambda *given: calls.append(1))
    assert put_text_encoder_away(plain.pipeline, plain.policy, ["a fox", "a bat", "a fox"])
    assert len(calls) == 3  # with the empty prompt
    plain.policy.prompts(["a fox", "a bat", ""])
    assert len(calls) == 3
    assert not put_text_encoder_away(plain.pipeline, plain.policy, [str(n) for n in range(2000)])


def test_without_a_cache_prompts_are_encoded_each_time_and_alike(world):
    kept, fresh = world(), world(cache_text=False)
    calls = []
    fresh.pipeline.text_encoder.register_forward_hook(lambda *given: calls.append(1))
    for _ in range(2):
        found = fresh.policy.prompts(["a fox", "a bat", "a fox"], group=2).cond
        assert torch.equal(found, kept.policy.prompts(["a fox", "a bat", "a fox"], group=2).cond)
    assert len(calls) == 4


def test_all_tensors_of_a_rollout_are_moved_but_for_its_kernel(plain):
    rollout = plain.rollout()
    other = moved(rollout, "meta")
    tensors = (other.x0, other.times, other.prompts.cond, other.path.x, other.path.x0_hat)
    assert all(t.device.type == "meta" for t in tensors)
    assert other.path.kernel is rollout.path.kernel and other.prompts.text == rollout.prompts.text


def test_tf32_is_for_cuda_and_can_be_taken_back():
    before = torch.get_float32_matmul_precision()
    try:
        multiply_in_tf32(True, "cpu")
        assert torch.get_float32_matmul_precision() == before
        multiply_in_tf32(True, "cuda")
        assert torch.get_float32_matmul_precision() == "high"
        multiply_in_tf32(False, "cuda")
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_optimizer_is_fused_or_not_and_steps_alike(world):
    after = []
    for fused in ("auto", "on", "off"):
        made = world()
        optimizer = adamw(made.unet, OptimizerSettings(fused=fused))
        assert optimizer.defaults["fused"] is (None if fused == "off" else True)
        made.policy.log_prob(made.batch(made.rollout())).sum().backward()
        optimizer.step()
        after.append({n: p.detach().clone() for n, p in made.policy.trained.items()})
    for name, weight in after[0].items():
        assert torch.equal(weight, after[1][name])
        torch.testing.assert_close(weight, after[2][name], rtol=1e-5, atol=1e-6)


def test_means_that_exclude_each_other_are_refused_together(tiny_model, tmp_path):
    sets = [
        f"model.ref={tiny_model}", "adapter.kind=full", "speed.merge=on", "speed.low_memory=on",
        "speed.cache_text=off", "speed.fused_adapters=on",
    ]  # fmt: skip
    with pytest.raises(SettingsError) as refused:
        diffrl.train("sdpo", "jpeg-compressibility", sets=sets, output=tmp_path / "r", live=False)
    assert len(refused.value.problems) == 3
    assert "speed.fused_adapters = 'on': adapter.kind = 'full'" in str(refused.value)
    assert "speed.merge = True: with adapter.kind = 'full'" in str(refused.value)
    assert "speed.cache_text = False: with speed.low_memory" in str(refused.value)


BRIGHT = """
def bright(images, text):
    return (images * images.new_tensor([3.0, 2.0, 1.0])[:, None, None]).mean((1, 2, 3))
"""


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_run_with_all_means_is_the_run_without_them(kind, tiny_model, tmp_path, monkeypatch):
    """Scored by a smooth reward: others round pictures to 256 levels, which rounding errors tip."""
    (tmp_path / "smooth_reward.py").write_text(BRIGHT, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    sets = [
        f"model.ref={tiny_model}", "train.trajectories=8", "sampler.lengths=[]",
        "sampler.steps=3", "eval.images=2", "eval.steps=[1]", "eval.watch=[]",
        f"adapter.kind={kind}", "optimizer.lr=1e-4",
    ]  # fmt: skip
    means = [
        "speed.low_memory=on", "speed.channels_last=on", "speed.attention=fused",
        "optimizer.fused=off", "train.sample_batch=0",
    ]  # fmt: skip
    metrics = []
    for name, more in (("plain", ["train.sample_batch=16"]), ("means", means)):
        run = diffrl.train(
            "ddpo", "smooth_reward:bright", sets=[*sets, *more], epochs=1,
            output=tmp_path / name, live=False,
        )  # fmt: skip
        metrics.append(run.metrics[-1])
    usual, other = metrics
    assert other["log_prob_gap/max"] < CLIP / 10
    for key in ("grad_norm", "advantage/abs_mean", "reward/bright/mean"):
        assert other[key] == pytest.approx(usual[key], rel=1e-3, abs=1e-6), key
