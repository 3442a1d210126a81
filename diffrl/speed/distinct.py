"""Rows that a network would be given twice, predicted once."""

from __future__ import annotations

import torch

from diffrl.tensors import Float, Int, Tensor

Given = tuple[Tensor, Tensor, Tensor]
"""States of shape `rows *latent`, their times, and their conditions."""


def distinct(
    x: Float[Tensor, "rows *latent"], t: Float[Tensor, "rows"], cond: Float[Tensor, "rows *cond"]
) -> tuple[Given, Int[Tensor, "rows"] | None]:
    """Return rows without those that equal the row before them, and where each row's own is.

    Rows of a group begin with the same noise where the sampler says so, so that at their first
    step the network would be asked the same thing for each of them. Autograd adds up what their
    losses ask of the one prediction. States that carry a gradient are left alone, since it would
    reach only one of them.

    Returns:
        What is left, and indices into it; None if that is everything.
    """
    if len(x) < 2 or x.requires_grad or cond.requires_grad:
        return (x, t, cond), None
    new = t.new_ones(len(x), dtype=torch.bool)
    new[1:] = (x[1:] != x[:-1]).flatten(1).any(1) | (t[1:] != t[:-1])
    new[1:] |= (cond[1:] != cond[:-1]).flatten(1).any(1)
    if bool(new.all()):
        return (x, t, cond), None
    return (x[new], t[new], cond[new]), new.cumsum(0) - 1
