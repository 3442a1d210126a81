"""Functions of many denoising steps in the memory of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from diffrl.tensors import Float, Tensor

OneStep = Callable[[int], Tensor]


def one_step_at_a_time(
    evaluate: OneStep, steps: int, device: torch.device
) -> Float[Tensor, "... s"]:
    """Return `evaluate(0) … evaluate(steps - 1)` joined on their last axis, of size 1 each.

    The forward pass keeps no activations. The backward pass evaluates each step again and sends
    its share of the gradient on at once, so that one step's graph is alive at a time, whatever
    `steps` is. The gradients are those of a single graph; the price is one more forward pass.

    Args:
        evaluate: a step's value, a function of weights that require grad. It must not draw noise.
        steps: how many.
        device: of the weights.

    Source: the two passes by which trajectory-level losses such as PRDP's (arXiv:2402.08714) fit
    into memory; Chen et al., arXiv:1604.06174, for recomputing activations.
    """
    anchor = torch.zeros((), device=device, requires_grad=True)
    joined: Tensor = _OneStepAtATime.apply(anchor, evaluate, steps)
    return joined


class _OneStepAtATime(torch.autograd.Function):
    """`anchor` makes autograd call `backward`, which adds to the weights' gradients itself."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, evaluate: OneStep, steps: int) -> Tensor:
        ctx.evaluate, ctx.steps = evaluate, steps
        with torch.no_grad():
            return torch.cat([evaluate(j) for j in range(steps)], dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = gradients
        for j in range(ctx.steps):
            with torch.enable_grad():
                value = ctx.evaluate(j)
            torch.autograd.backward(value, gradient[..., j : j + 1])
        return None, None, None
