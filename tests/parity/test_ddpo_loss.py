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
