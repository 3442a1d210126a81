"""D3PO's loss, preferences and gradients against the published ones."""

import pytest
import torch
from diffrl_d3po.loss import StepPreference, preferences
from given import GivenPolicy, close
from pack import unpack

from diffrl.types import Batch

CASES = unpack("d3po_loss")["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_loss_gradients_and_preferences_equal_the_published_ones(case):
    live, base = both(case, "log_prob"), both(case, "ref_log_prob")
    live.requires_grad_()
    batch = batch_of(case)
    close(preferences(batch)[..., 0].double(), case["preference"])
    out = StepPreference(beta=case["beta"], clip=case["eps"])(GivenPolicy(live, base), batch)
    close(out.value, case["loss"])
    (grad,) = torch.autograd.grad(out.value, live)
    for i in (0, 1):
        close(grad[:, i, 0], case[f"grad_log_prob_{i}"])
    outside = ((live - base).exp() - 1).abs() > case["eps"]
    close(out.metrics["clip_fraction"], outside.double().mean())


def test_a_row_that_wins_one_reward_and_loses_another_is_not_preferred():
    each = torch.tensor([[[1.0, 2.0], [2.0, 1.0]], [[1.0, 2.0], [1.0, 1.0]]])
    batch = Batch(
        cond=torch.zeros(2, 2, 1), step=torch.arange(3).expand(2, 3), t=torch.zeros(2, 2, 3),
        x0=torch.zeros(2, 2, 1), advantage=torch.zeros(2, 2, 3), each=each,
    )  # fmt: skip
    expected = torch.tensor([[0.0, 0.0], [1.0, -1.0]])[..., None].expand(2, 2, 3)
    assert torch.equal(preferences(batch), expected)


def batch_of(case):
    """The rewards of a case as diffrl has them: each alone where there are several, else a sum."""
    rewards = torch.stack([torch.tensor(case[f"rewards_{i}"]).double() for i in (0, 1)], 1)
    several = rewards.ndim == 3
    advantage = (rewards.sum(2) if several else rewards)[..., None]
    blank = torch.zeros(len(rewards), 2, 1)
    step = torch.zeros(len(rewards), 1, dtype=torch.long)
    return Batch(cond=blank, step=step, t=blank, x0=blank, advantage=advantage,
                 each=rewards if several else None)  # fmt: skip


def both(case, name):
    return torch.stack([torch.tensor(case[f"{name}_{i}"]).double() for i in (0, 1)], 1)[..., None]


def test_a_ratio_that_overflows_gets_no_gradient():
    live = torch.tensor([[[500.0], [0.0]], [[0.0], [-500.0]]], requires_grad=True)
    batch = batch_of({"rewards_0": [1.0, 1.0], "rewards_1": [0.0, 0.0]})
    out = StepPreference()(GivenPolicy(live, torch.zeros(2, 2, 1)), batch)
    (grad,) = torch.autograd.grad(out.value, live)
    assert out.value.isfinite() and grad.isfinite().all()
    assert not grad[0, 0] and not grad[1, 1] and grad[0, 1] and grad[1, 0]
    assert out.metrics["clip_fraction"] == 0.5
