"""The toy world is what it says: its initial network is exact, and its policy keeps its word."""

import pytest
import torch

from diffrl.testing.contracts.loss import fresh_policy, full_batch
from diffrl.testing.toy import SPREAD, TEXT, ToyJudge, ToyPolicy, centre, target, walk

PREDICTIONS = ("epsilon", "v_prediction", "flow")


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_initial_network_predicts_the_best_guess(prediction):
    """No constant or linear correction of its output lowers the denoising error."""
    policy = ToyPolicy(prediction=prediction, dtype=torch.float64)
    prompts = policy.prompts(TEXT[:1], 20000)
    data = prompts.cond.reshape(-1, 2, 2, 2)
    data = data + SPREAD * policy.normal((len(prompts),), torch.Generator().manual_seed(0))
    t = torch.full((len(prompts), 1, 1), 500.0)
    xt, wanted = policy.noise(data[:, None], t)
    error = wanted - policy.predict(xt, t, prompts.cond[:, None])
    assert error.mean(0).abs().max() < 0.05
    assert (error * (xt - xt.mean(0))).mean(0).abs().max() < 0.05


def test_samples_spread_like_the_data():
    policy = ToyPolicy()
    prompts = policy.prompts(TEXT, 64)
    rng = torch.Generator().manual_seed(0)
    drawn = walk(policy, policy.ddim(100, 1.0), prompts, policy.timesteps(100), rng).x0
    away = drawn.flatten(1) - prompts.cond
    assert away.mean().abs() < 0.05
    assert away.std() == pytest.approx(SPREAD, rel=0.1)


def test_judge_is_highest_at_the_target_and_its_gradient_points_there():
    policy, judge = ToyPolicy(), ToyJudge()
    prompts = policy.prompts(TEXT)
    best = torch.stack([target(t) for t in TEXT]).float().reshape(-1, 2, 2, 2)
    step = torch.zeros(len(TEXT), dtype=torch.long)
    assert judge(best, prompts, step).tolist() == [0] * len(TEXT)
    start = torch.stack([centre(t) for t in TEXT]).float().reshape(-1, 2, 2, 2)
    value, grad = judge.grad(start, prompts, torch.zeros(len(start), dtype=torch.long))
    assert torch.allclose(value, torch.tensor(-0.64), atol=1e-5)
    assert torch.allclose(start + 4 * grad, best, atol=1e-5)  # d/dx of a mean over 8 squares


@pytest.mark.parametrize("weights", ["old", "base"])
def test_frozen_weights_carry_no_gradient(weights):
    policy = ToyPolicy()
    batch = full_batch(1, policy, ToyJudge())
    assert not policy.log_prob(batch, weights).requires_grad
    assert policy.log_prob(batch).requires_grad


def test_tuple_members_share_their_noise():
    policy = ToyPolicy(prediction="epsilon")
    _, wanted = policy.noise(torch.zeros(3, 2, 2, 2, 2), torch.full((3, 2, 4), 500.0))
    assert torch.equal(wanted[:, 0], wanted[:, 1])
    assert not torch.equal(wanted[0], wanted[1])


def test_old_weights_follow_at_the_given_decay():
    policy = fresh_policy()
    old, live = (policy.nets[w].inner.detach().clone() for w in ("old", "live"))
    base = policy.nets["base"].inner.clone()
    policy.follow(0.75)
    assert torch.allclose(policy.nets["old"].inner, 0.75 * old + 0.25 * live)
    policy.follow(0.0)
    assert torch.equal(policy.nets["old"].inner, live)
    assert torch.equal(policy.nets["base"].inner, base)
