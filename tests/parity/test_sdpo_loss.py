"""SDPO's loss and its gradients against the published ones."""

import pytest
import torch
from diffrl_sdpo.loss import RewardDifference
from given import GivenPolicy, close
from pack import unpack

from diffrl.types import Batch

CASES = unpack("sdpo_loss")["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_loss_and_gradients_of_each_step_equal_the_published_ones(case):
    for column in case["per_column"]:
        j = int(column["step_column"])
        out, grad = evaluate(case, slice(j, j + 1))
        close(out.value, column["loss"])
        close(grad[:, 0, 0], column["grad_log_prob1"])
        close(grad[:, 1, 0], column["grad_log_prob2"])


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_steps_of_one_minibatch_are_averaged(case):
    out, grad = evaluate(case, slice(None))
    columns = case["per_column"]
    close(out.value, sum(c["loss"] for c in columns) / len(columns))
    for j, column in enumerate(columns):
        close(grad[:, 0, j] * len(columns), column["grad_log_prob1"])


def evaluate(case, steps):
    def both(name):
        return torch.stack([torch.tensor(case[f"{name}{i}"])[:, steps] for i in (1, 2)], 1).double()

    log_prob = both("log_prob").requires_grad_()
    step = numbers(case)[:, steps]
    blank = torch.zeros(4, 2, 1)
    batch = Batch(
        cond=blank,
        step=step,
        t=blank.expand(4, 2, step.shape[1]),
        x0=blank,
        advantage=both("advantages"),
        log_prob=both("old_log_prob"),
    )
    loss = RewardDifference(
        clip=case["clip_range"], scale=case["log_scale"], advantage_clip=case["adv_clip_max"]
    )
    out = loss(GivenPolicy(log_prob), batch)
    (grad,) = torch.autograd.grad(out.value, log_prob)
    return out, grad


def numbers(case):
    """Return the denoising step of each entry, from its published weight 0.99^k."""
    weight = torch.tensor(case["lam"]).double()
    step = (weight.log() / torch.tensor(0.99).double().log()).round().long()
    close(0.99 ** step.double(), weight)
    return step
