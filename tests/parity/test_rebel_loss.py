"""REBEL's and PRDP's losses and gradients against published code and formulas."""

from itertools import combinations

import pytest
import torch
from diffrl_rebel.loss import ProximalRelativeReward, RelativeReward
from given import GivenPolicy, close
from pack import unpack

from diffrl.types import Batch

GENERAL = unpack("rebel_general_loss")["cases"]
TRAJECTORIES = unpack("rebel_rlcm_loss")["cases"]
PRDP = unpack("prdp")


@pytest.mark.parametrize("case", GENERAL, ids=lambda c: f"eta-{c['eta']}")
def test_loss_equals_that_of_the_language_model_code(case):
    """There eta multiplies the rewards, so the losses differ by eta², the minimiser does not."""
    eta = case["eta"]

    def pairs(name):
        return torch.tensor(case[name]).double().reshape(2, -1).T[..., None]  # y, then y'

    live = pairs("new_logprobs").requires_grad_()
    batch = batch_of(pairs("rewards"), pairs("old_logprobs"))
    value = RelativeReward(eta=eta)(GivenPolicy(live), batch).value * eta**2
    close(value, case["loss"])
    (grad,) = torch.autograd.grad(value, live)
    close(grad[..., 0].T.flatten(), case["grad"])


@pytest.mark.parametrize("case", TRAJECTORIES, ids=lambda c: c["name"])
def test_loss_of_each_row_is_the_formula_that_the_trajectory_code_means(case):
    live, old = (stack(case, f"{name}1", f"{name}2") for name in ("log_prob", "old_log_prob"))
    live.requires_grad_()
    advantage = stack(case, "advantages1", "advantages2")[..., None].expand_as(old)
    loss = RelativeReward(eta=1 / case["rebel_lr"])
    out = loss(GivenPolicy(live), batch_of(advantage, old))
    close(out.value, case["intended_per_sample_loss"])
    if len(live) == 1:  # where the published code mixes no rows
        close(out.value, case["official_loss"])
        (grad,) = torch.autograd.grad(out.value, live)
        close(grad[:, 0], case["grad_log_prob1"])
        close(grad[:, 1], case["grad_log_prob2"])


@pytest.mark.parametrize("case", TRAJECTORIES, ids=lambda c: c["name"])
@pytest.mark.parametrize("clip", [1e-4, 0.05])
def test_the_clipped_loss_is_the_larger_of_two(case, clip):
    live, old = (stack(case, f"{name}1", f"{name}2") for name in ("log_prob", "old_log_prob"))
    live = live + 0.1 * torch.sin(torch.arange(live.numel())).reshape(live.shape)
    gap = stack(case, "advantages1", "advantages2").diff(dim=1)[:, 0]
    ratio = live - old
    errors = [(r.sum(2).diff(dim=1)[:, 0] - gap) ** 2 for r in (ratio, ratio.clamp(-clip, clip))]
    advantage = stack(case, "advantages1", "advantages2")[..., None].expand_as(old)
    out = RelativeReward(clip=clip)(GivenPolicy(live), batch_of(advantage, old))
    close(out.value, torch.maximum(*errors).mean())
    close(out.metrics["clip_fraction"], (ratio.abs() > clip).double().mean())
    assert 0 < out.metrics["clip_fraction"] and (clip < 0.05 or out.metrics["clip_fraction"] < 1)


@pytest.mark.parametrize("case", PRDP, ids=lambda c: f"beta-{c['beta']}-eps-{c['eps']}")
def test_proximal_loss_over_all_pairs_of_a_group_is_the_papers(case):
    rows = torch.tensor(list(combinations(range(len(case["rewards"])), 2)))
    assert rows.tolist() == torch.tensor(case["pairs"]).tolist()
    each = torch.tensor(case["log_prob"]).double().requires_grad_()
    old, base = (torch.tensor(case[f"{name}_log_prob"]).double()[rows] for name in ("old", "ref"))
    reward = torch.tensor(case["rewards"]).double()[rows][..., None].expand_as(old)
    loss = ProximalRelativeReward(beta=case["beta"], clip=case["eps"])
    out = loss(GivenPolicy(each[rows], base), batch_of(reward, old))
    close(out.value, case["loss"])
    (grad,) = torch.autograd.grad(out.value, each)
    close(grad, case["grad"])


@pytest.mark.parametrize("case", PRDP, ids=lambda c: f"beta-{c['beta']}-eps-{c['eps']}")
def test_proximal_loss_of_a_whole_group_is_the_papers(case):
    each = torch.tensor(case["log_prob"]).double()[None].requires_grad_()
    old, base = (torch.tensor(case[f"{name}_log_prob"]).double()[None] for name in ("old", "ref"))
    reward = torch.tensor(case["rewards"]).double()[None, :, None].expand_as(old)
    loss = ProximalRelativeReward(beta=case["beta"], clip=case["eps"])
    out = loss(GivenPolicy(each, base), batch_of(reward, old))
    close(out.value, case["loss"])
    (grad,) = torch.autograd.grad(out.value, each)
    close(grad[0], case["grad"])


def stack(case, first, second):
    return torch.stack([torch.tensor(case[name]).double() for name in (first, second)], 1)


def batch_of(advantage, old):
    blank = torch.zeros(*old.shape[:2], 1)
    step = torch.arange(old.shape[2]).expand(len(old), -1)
    return Batch(cond=blank, step=step, t=old, x0=blank, advantage=advantage, log_prob=old)
