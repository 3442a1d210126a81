"""What an evaluation's networks predicted, so that they need not be asked twice."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from diffrl.stages import Weights
from diffrl.tensors import Float, Tensor


@dataclass(frozen=True)
class Call:
    """A call of the network, or its first rows.

    Args:
        weights: that were asked.
        x: states.
        t: their times.
        cond: their conditions.
        output: what was predicted.
    """

    weights: Weights
    x: Float[Tensor, "n *latent"]
    t: Float[Tensor, "n"]
    cond: Float[Tensor, "n *cond"]
    output: Float[Tensor, "n *latent"]


class Heard:
    """Predictions that an evaluation asks for again, where the network rounds alike in any batch.

    Pictures of every number of steps begin with the same noise, so that one's first prediction is
    the others', too. And the first pictures' transitions are compared with those of the base
    model, so that what the live weights predicted for them is wanted again.

    Args:
        shown: rows that are compared.
        most: rows of beginnings that are kept; later ones are not.
    """

    def __init__(self, shown: int, most: int = 256) -> None:
        self._shown, self._most = shown, most
        self._beginnings: list[Call] = []
        self._since: list[Call] = []

    def find(self, weights: Weights, x: Tensor, t: Tensor, cond: Tensor) -> Tensor | None:
        """Return what these weights predicted of the same rows, if that is known."""
        rows = len(x)
        for known in (*self._beginnings, *self._since):
            if weights == known.weights and rows <= len(known.x):
                pairs = ((known.t, t), (known.x, x), (known.cond, cond))
                if all(torch.equal(old[:rows], new) for old, new in pairs):
                    return known.output[:rows].clone()
        return None

    def keep(self, call: Call) -> None:
        """Remember a beginning, which is of the noisiest time so far, or first rows."""
        time = float(call.t[0])
        if time >= max((float(known.t[0]) for known in self._beginnings), default=time):
            if sum(len(known.x) for known in self._beginnings) + len(call.x) <= self._most:
                self._beginnings.append(_first(call, len(call.x)))
        elif call.weights == "live" and self._shown:
            self._since.append(_first(call, self._shown))

    def forget(self) -> None:
        """Let go of what was predicted since beginnings."""
        self._since.clear()


def _first(call: Call, rows: int) -> Call:
    """Return some rows of a call; what was predicted is its own, should a sampler change it."""
    output = call.output[:rows].clone()
    return Call(call.weights, call.x[:rows], call.t[:rows], call.cond[:rows], output)
