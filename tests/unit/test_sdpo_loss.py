"""The loss, apart from the published numbers in the parity tests."""

from dataclasses import replace

import pytest
import torch
from diffrl_sdpo.loss import RewardDifference

from diffrl.stages import Policy
from diffrl.types import Batch


class Stub(Policy):
    """A policy whose log-densities are given."""

    def __init__(self, log_prob):
        self.value = log_prob

    def log_prob(self, batch, weights="live"):
        return self.value


def batch(advantage, stored=None):
    m, k, s = advantage.shape
    blank = torch.zeros(m, k, 1)
    return Batch(
        cond=blank,
        step=torch.arange(m * s).reshape(m, s),
        t=blank.expand(m, k, s),
        x0=blank,
        advantage=advantage,
        log_prob=torch.zeros(m, k, s) if stored is None else stored,
    )


def test_the_loss_of_unchanged_weights_is_the_squared_advantage_difference():
    advantage = torch.randn(6, 2, 3)
    out = RewardDifference()(Stub(torch.zeros(6, 2, 3)), batch(advantage))
    torch.testing.assert_close(out.value, (advantage[:, 0] - advantage[:, 1]).square().mean())


def test_reversed_weights_count_from_the_last_step():
    log_prob, advantage = torch.randn(2, 2, 3), torch.zeros(2, 2, 3)
    given = replace(batch(advantage), step=torch.tensor([[0, 1, 2], [2, 1, 0]]), length=5)
    gap = log_prob[:, 0] - log_prob[:, 1]
    for reverse, power in ((False, given.step), (True, 4 - given.step)):
        out = RewardDifference(decay=0.9, reverse=reverse, clip=0)(Stub(log_prob), given)
        torch.testing.assert_close(out.value, (0.9**power * gap).square().mean())


def test_its_gradient_raises_the_better_row():
    log_prob = torch.zeros(1, 2, 1, requires_grad=True)
    RewardDifference()(Stub(log_prob), batch(torch.tensor([[[1.0], [-1.0]]]))).value.backward()
    assert log_prob.grad.flatten().tolist() == [-4.0, 4.0]


def test_swapping_a_pair_changes_nothing():
    advantage, log_prob, stored = torch.randn(3, 6, 2, 3).mul(2e-4).unbind(0)
    advantage = advantage * 1e4
    values = [
        RewardDifference()(Stub(p), batch(a, q)).value
        for a, p, q in [
            (advantage, log_prob, stored),
            (swap(advantage), swap(log_prob), swap(stored)),
        ]
    ]
    torch.testing.assert_close(*values)


def test_a_side_beyond_the_clip_gets_no_gradient_where_the_clipped_branch_is_larger():
    # the better row already rose by more than the clip, and the pair wants still more
    log_prob = torch.tensor([[[3e-4], [0.5e-4]]], requires_grad=True)
    RewardDifference()(Stub(log_prob), batch(torch.tensor([[[1.0], [-1.0]]]))).value.backward()
    better, worse = log_prob.grad.flatten().tolist()
    assert better == 0 and worse > 0


def test_a_side_beyond_the_clip_keeps_its_gradient_where_it_must_come_back():
    log_prob = torch.tensor([[[-3e-4], [0.0]]], requires_grad=True)
    RewardDifference()(Stub(log_prob), batch(torch.tensor([[[1.0], [-1.0]]]))).value.backward()
    assert log_prob.grad.flatten()[0] < 0


@pytest.mark.parametrize("clip", [0.0, -1.0])
def test_a_clip_of_zero_or_less_is_off(clip):
    log_prob = torch.randn(4, 2, 2, requires_grad=True)
    advantage = torch.randn(4, 2, 2)
    loss = RewardDifference(clip=clip, decay=1.0)
    out = loss(Stub(log_prob), batch(advantage))
    d = (log_prob - 0)[:, 0] - log_prob[:, 1] - (advantage[:, 0] - advantage[:, 1])
    torch.testing.assert_close(out.value, d.square().mean())
    assert out.metrics["clip_fraction"] == 0
    assert loss.log_ratio_limit is None and RewardDifference().log_ratio_limit == 1e-4


def test_weight_and_scale_multiply_the_log_ratios_only():
    advantage, log_prob = torch.zeros(1, 2, 3), torch.tensor([[[1.0] * 3, [0.0] * 3]])
    out = RewardDifference(clip=0, decay=0.5, scale=2.0)(Stub(log_prob), batch(advantage))
    expected = torch.tensor([0.5, 0.25, 0.125]).square().mean()
    torch.testing.assert_close(out.value, expected)


def test_advantages_are_clamped():
    advantage = torch.tensor([[[9.0], [-7.0]], [[1.0], [-6.0]]])
    out = RewardDifference()(Stub(torch.zeros(2, 2, 1)), batch(advantage))
    assert out.value == (10**2 + 6**2) / 2
    assert out.metrics["advantage_clip_fraction"] == 0.75
    assert out.metrics["advantage_abs_mean"] == 4


def test_metrics_are_detached_scalars():
    log_prob = torch.tensor([[[3e-4], [0.0]], [[0.0], [-2e-4]]], requires_grad=True)
    out = RewardDifference()(Stub(log_prob), batch(torch.randn(2, 2, 1)))
    assert out.metrics["clip_fraction"] == 0.5
    assert float(out.metrics["log_ratio_abs_max"]) == pytest.approx(3e-4)
    assert all(v.ndim == 0 and not v.requires_grad for v in out.metrics.values())


def swap(value):
    return value.flip(1)
