"""DDPO's loss, gradients and metrics against the published ones."""

import pytest
import torch
from diffrl_ddpo.loss import ClippedRatio
from given import GivenPolicy, close
from pack import unpack

from diffrl.types import Batch

CASES = unpack("ddpo_loss")["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_loss_gradient_and_metrics_of_each_step_equal_the_published_ones(case):
    for column in case["per_column"]:
        j = int(column["column"])
        out, grad = evaluate(case, slice(j, j + 1))
        close(out.value, column["loss"])
        close(grad[:, 0, 0], column["grad_log_prob"])
        close(out.metrics["approx_kl"], column["approx_kl"])
        close(out.metrics["clip_fraction"], column["clipfrac"])


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_steps_of_one_minibatch_are_averaged(case):
    out, grad = evaluate(case, slice(None))
    columns = case["per_column"]
    close(out.value, sum(c["loss"] for c in columns) / len(columns))
    for j, column in enumerate(columns):
        close(grad[:, 0, j] * len(columns), column["grad_log_prob"])


def evaluate(case, steps):
    def rows(name):
        return torch.tensor(case[name])[:, None, steps].double()

    log_prob = rows("log_prob").requires_grad_()
    old = rows("old_log_prob")
    advantage = torch.tensor(case["advantages"]).double()[:, None, None].expand_as(old)
    blank = torch.zeros(len(old), 1, 1)
    step = torch.zeros(len(old), old.shape[2], dtype=torch.long)
    batch = Batch(cond=blank, step=step, t=old, x0=blank, advantage=advantage, log_prob=old)
    loss = ClippedRatio(clip=case["clip_range"], advantage_clip=case["adv_clip_max"])
    out = loss(GivenPolicy(log_prob), batch)
    (grad,) = torch.autograd.grad(out.value, log_prob)
    return out, grad


def test_a_ratio_that_overflows_gets_no_gradient_from_a_good_advantage():
    blank, step = torch.zeros(3, 1, 1), torch.zeros(3, 1, dtype=torch.long)
    live = torch.tensor([500.0, 500.0, 0.0])[:, None, None].requires_grad_()
    advantage = torch.tensor([1.0, 0.0, 1.0])[:, None, None]
    batch = Batch(cond=blank, step=step, t=blank, x0=blank, advantage=advantage, log_prob=blank)
    out = ClippedRatio(clip=0.1)(GivenPolicy(live), batch)
    (grad,) = torch.autograd.grad(out.value, live)
    torch.testing.assert_close(out.value.detach(), torch.tensor(-2.1 / 3))
    torch.testing.assert_close(grad.flatten(), torch.tensor([0.0, 0.0, -1 / 3]))
