"""Optimizer steps that are skipped, and how many in a row."""

from types import SimpleNamespace

import pytest
import torch

from diffrl.trainer.skipping import Streak, step


@pytest.mark.parametrize(("fused", "split"), [(True, False), (True, True), (False, False)])
def test_weights_are_those_of_an_optimizer_that_never_saw_what_is_skipped(fused, split):
    start = torch.randn(5, 3)
    mine, its = (torch.nn.Parameter(start.clone()) for _ in range(2))
    made, plain = (
        torch.optim.AdamW([w], lr=0.1, weight_decay=0.1, fused=fused) for w in (mine, its)
    )
    given = SimpleNamespace(optimizer=made, step=made.step)
    for good in (False, True, True, False, False, True):
        gradient = torch.randn(5, 3)
        mine.grad = gradient.clone() if good else gradient / 0
        step(given, mine.grad.norm().isfinite(), scaled=False, split=split)
        if good:
            its.grad = gradient
            plain.step()
        assert torch.equal(mine, its) and not hasattr(made, "found_inf")
    own, other = (one.state_dict()["state"][0] for one in (made, plain))
    assert all(torch.equal(own[name], other[name]) for name in other)


def test_a_streak_is_counted_when_it_is_read_and_forgotten_where_a_run_goes_back():
    streak = Streak()
    for good in (False, False, True, False):
        streak.add(torch.tensor(good))
    assert (streak.most, streak.now) == (2, 1)
    streak.begin()
    streak.add(torch.tensor(False))
    assert (streak.now, streak.most) == (2, 2)
    streak.add(torch.tensor(False))
    streak.go_back(1)
    assert (streak.now, streak.most) == (1, 2)
