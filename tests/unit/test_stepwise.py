import pytest
import torch
from peak import Peak
from torch.autograd.graph import saved_tensors_hooks

from diffrl.stepwise import one_step_at_a_time


def network(x, weight):
    for _ in range(3):
        x = torch.tanh(x @ weight)
    return x.sum(-1, keepdim=True)


def loss_of(log_ratio, wanted):
    """A loss that couples the steps, as trajectory-level ones do."""
    return (log_ratio.sum(1) - wanted).square().mean()


def run(steps, stepwise):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(steps, 5, 16, generator=rng, dtype=torch.float64)
    weight = torch.randn(16, 16, generator=rng, dtype=torch.float64).requires_grad_()
    wanted = torch.randn(5, generator=rng, dtype=torch.float64)
    peak = Peak()
    with saved_tensors_hooks(peak.keep, peak.give):
        if stepwise:
            value = one_step_at_a_time(lambda j: network(x[j], weight), steps, x.device)
        else:
            value = torch.cat([network(x[j], weight) for j in range(steps)], dim=-1)
        loss = loss_of(value, wanted)
        loss.backward()
    return loss.detach(), weight.grad, peak.most


def test_values_and_gradients_are_those_of_one_graph():
    for got, expected in zip(run(7, True)[:2], run(7, False)[:2], strict=True):
        assert torch.allclose(got, expected, rtol=1e-9)


def test_memory_does_not_grow_with_the_number_of_steps():
    few, many = (run(steps, True)[2] for steps in (4, 64))
    assert many < 1.5 * few
    assert run(64, False)[2] > 10 * run(4, True)[2]


@pytest.mark.parametrize("steps", [1, 3])
def test_gradients_add_to_those_already_there(steps):
    weight = torch.ones(2, requires_grad=True)
    for _ in range(2):
        one_step_at_a_time(
            lambda j: (weight * (j + 1)).sum()[None], steps, weight.device
        ).sum().backward()
    assert torch.equal(weight.grad, torch.full((2,), 2.0 * sum(range(1, steps + 1))))
