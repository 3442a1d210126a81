"""The yardstick of speed: the published schedule computes what diffrl computes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.speed.ours import Ours  # noqa: E402
from benchmarks.speed.published import Published  # noqa: E402
from benchmarks.speed.rewards import anchored, dense_rewards, returns_of  # noqa: E402
from benchmarks.speed.sizes import settings_of  # noqa: E402
from benchmarks.speed.watch import Watch  # noqa: E402
from diffrl.builtin.advantages import returns  # noqa: E402
from diffrl.kernels import log_density  # noqa: E402
from diffrl.trainer import loop  # noqa: E402
from diffrl.types import Memory, Minibatch, gather  # noqa: E402

PARTS = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}
CPU = torch.device("cpu")


@pytest.fixture
def both(tmp_path):
    """diffrl's session and the published way, with the same weights, moved away from the base."""
    settings = settings_of("tiny", tmp_path / "weights", ["train.track=[]"])
    ours = Ours(settings, tmp_path / "run", Watch(CPU))
    theirs = Published(settings, CPU, "fp32", ours.prompts, tmp_path, Watch(CPU), workers=0)
    with torch.no_grad():
        for ours_, theirs_ in shared(ours.session.policy.trained, theirs):
            ours_.add_(0.05 * torch.randn(ours_.shape))
            theirs_.copy_(ours_)
    yield ours.session, theirs
    ours.close()


def shared(trained, theirs):
    """Yield each trained tensor with its counterpart."""
    found = 0
    for name, attention in theirs.adapters.items():
        for own, part in PARTS.items():
            for side, letter in (("down", "A"), ("up", "B")):
                key = f"{name}.{part}.lora_{letter}.default.weight"
                yield trained[key], getattr(getattr(attention, own), side).weight
                found += 1
    assert found == len(trained)


def rollout_of(session):
    recipe = session.settings.recipe
    text = [session.prompts[i % 3] for i in range(8)]
    with torch.no_grad():
        return recipe.sampler(session.policy, text, session.rng)


def test_the_published_schedule_gives_the_same_rewards_and_advantages(both):
    session, theirs = both
    recipe, memory = session.settings.recipe, Memory()
    # Prompts have 4 or 6 rows an epoch: statistics of the prompt for some, and for all.
    recipe = recipe.but(
        advantage_estimator=recipe.advantage_estimator.model_copy(update={"min_count": 6})
    )
    theirs.tracker._least = 6
    for _ in range(2):
        rollout = rollout_of(session)
        rewards = recipe.reward_predictor(rollout, session.judge)
        text, x0_hat = rollout.prompts.text[::2], rollout.path.x0_hat
        dense = []
        for own in (0, 1):
            mine = x0_hat[own::2]
            anchor, alike = anchored(mine)
            rows = torch.arange(len(mine))
            asked = [mine[:, 0], mine[rows, anchor], mine[:, -1]]
            pictures = [theirs._decode(x) for x in asked]
            torch.testing.assert_close(pictures[0], session.decode(asked[0]))
            scores = torch.stack([theirs.scorer(p, text) for p in pictures], 1)
            same = torch.stack([session.rewards[0].score(p, text) for p in pictures], 1)
            torch.testing.assert_close(scores, same, rtol=0, atol=1e-6)
            dense.append(dense_rewards(scores, alike, anchor))
            # Rounding in the decoder moves a pixel to the next of its 256 levels now and then.
            torch.testing.assert_close(dense[own], rewards.value[own::2], rtol=0, atol=1e-4)
        total = returns_of(torch.cat(dense).numpy().copy(), 0.99)
        expected = returns(rewards.value, 0.99)
        expected = torch.cat([expected[::2], expected[1::2]])
        torch.testing.assert_close(torch.from_numpy(total), expected, rtol=0, atol=3e-4)
        # The same returns for both from here on: a z-score divides their rounding by a small std.
        exact = [rewards.value[own::2] for own in (0, 1)]
        found = theirs.advantages(exact, text)
        advantages, memory = recipe.advantage_estimator(rewards, rollout.prompts, memory)
        for own in (0, 1):
            given = torch.from_numpy(found[own])
            torch.testing.assert_close(given, advantages.value[own::2], rtol=2e-4, atol=2e-4)


def test_the_published_schedule_gives_the_same_loss_and_gradient(both):
    session, theirs = both
    recipe, rollout = session.settings.recipe, rollout_of(session)
    rewards = recipe.reward_predictor(rollout, session.judge)
    advantages, _ = recipe.advantage_estimator(rewards, rollout.prompts, Memory())
    # Stored log-probs a little off, so that some log-ratios are clipped and some are not.
    noise = 1e-4 * torch.randn(rollout.path.log_prob.shape)
    path = replace(rollout.path, log_prob=rollout.path.log_prob + noise)
    rollout = replace(rollout, path=path)
    pairs = torch.arange(16).reshape(8, 2)
    steps = torch.tensor([[i % 3] for i in range(8)])
    with torch.enable_grad():
        out = recipe.loss(session.policy, gather(rollout, advantages, Minibatch(pairs, steps)))
        out.value.backward()
        assert 0 < out.metrics["clip_fraction"] < 1
        piece = piece_of(rollout, advantages, theirs, steps)
        loss, info = theirs.update.loss(piece, 0, 3)
        loss.backward()
    torch.testing.assert_close(loss, out.value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(info["clipped"], out.metrics["clip_fraction"])
    for mine, other in shared(session.policy.trained, theirs):
        largest = mine.grad.abs().max()
        assert largest > 0
        assert (mine.grad - other.grad).abs().max() < 1e-3 * largest


def piece_of(rollout, advantages, theirs, steps):
    """Return the micro-batch of the published loop that has each pair at its step."""
    rows, path = torch.arange(8)[:, None], rollout.path
    weight = 0.99 ** torch.arange(3).float().repeat(8, 1)
    piece = {
        "timesteps": rollout.times.long().repeat(8, 1)[rows, steps],
        "weight": weight[rows, steps],
        "cond": rollout.prompts.cond[::2],
    }
    for own in (0, 1):
        of = {
            "latents": path.x[own::2, :-1],
            "next_latents": path.x[own::2, 1:],
            "log_probs": path.log_prob[own::2],
            "advantages": advantages.value[own::2],
        }
        piece |= {f"{name}{own + 1}": value[rows, steps] for name, value in of.items()}
    return piece


def test_a_sampled_trajectory_has_the_density_that_diffrl_gives_it(both):
    session, theirs = both
    cond = theirs._encode(["a cat", "a dog"])
    torch.testing.assert_close(cond, session.policy.prompts(["a cat", "a dog"]).cond)
    one = theirs.sample(cond, 3, None)
    two = theirs.sample(cond, 3, one.latents[:, 0])
    assert torch.equal(one.latents[:, 0], two.latents[:, 0])
    assert torch.equal(one.latents[:, 1:], one.next_latents[:, :-1])
    kernel, times = session.policy.ddim(3, 1.0), session.policy.timesteps(3)
    for k in range(3):
        x, t = one.latents[:, k], times[k].expand(2)
        with torch.no_grad():
            output = session.policy.predict(x, t, cond)
        density = log_density(one.next_latents[:, k], kernel.transition(output, t, x))
        torch.testing.assert_close(one.log_probs[:, k], density, rtol=1e-5, atol=1e-5)


def test_an_epoch_in_half_precision_trains_the_adapter_in_fp32(tmp_path):
    settings = settings_of("tiny", tmp_path / "weights", ["train.trajectories=8"])
    watch = Watch(CPU)
    run = Published(settings, CPU, "bf16", ["a cat", "a dog"], tmp_path, watch, workers=2)
    before = [p.clone() for p in run.trained]
    metrics = run.epoch(1)
    assert {p.dtype for p in run.pipeline.unet.parameters()} == {torch.float32, torch.bfloat16}
    assert {p.dtype for p in run.trained} == {torch.float32}
    assert any(not torch.equal(a, b) for a, b in zip(before, run.trained, strict=True))
    assert watch.optimizer_steps == 3
    assert watch.rows["reward"] == 3 * 8
    # Stored latents are rounded, as published; at the last step, of sigma 0.029, bf16 is coarse.
    assert 1e-3 < metrics["log_prob_gap/max"] < 1
    assert (tmp_path / "state.pt").exists()
    assert len(list(tmp_path.glob("*.jpg"))) == 4


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks.speed", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_log_probs_that_are_recomputed_are_no_training(tmp_path):
    """The published way does not; what both train is compared."""
    sets = ["train.track=[]", "speed.recompute=on"]
    watch, plain = Watch(CPU), loop.recompute
    ours = Ours(settings_of("tiny", tmp_path / "weights", sets), tmp_path / "run", watch)
    ours.epoch(1)
    ours.close()
    assert watch.rows["asked/recomputed"] == watch.rows["asked/grad"] == 16 * 3
    assert watch.rows["unet/recomputed"] == watch.rows["unet/grad"] == 16 * 3 - 8  # of pairs
    assert loop.recompute is plain


@pytest.mark.slow
def test_the_benchmark_writes_what_both_ways_did(tmp_path):
    target = tmp_path / "speed.json"
    done = run("--size", "tiny", "--repeats", "2", "--output", str(target))
    assert done.returncode == 0, done.stderr
    result = json.loads(target.read_text())
    (work,) = result["work"]
    assert work["published"]["unet/grad"] == work["diffrl"]["asked/grad"] == 16 * 3
    assert work["diffrl"]["unet/grad"] == 16 * 3 - 8
    assert work["published"]["optimizer_steps"] == work["diffrl"]["optimizer_steps"] == 3 * 2
    for way in ("published", "diffrl"):
        found = result["summary"][way]
        assert len(result["repeats"][way]) == 2
        assert sum(found["phases"].values()) == pytest.approx(found["seconds"], rel=0.5)
        assert 0 < found["utilisation"] < 1
        assert 0 < found["outside_networks"]["share"] < 1
        assert found["log_prob_gap"] < 1e-5


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_full_size_is_refused_without_a_gpu():
    done = run("--size", "sd-turbo")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "error: --size sd-turbo needs a GPU, and this machine has none; take --size emoji"
    )
    assert "Traceback" not in done.stderr
