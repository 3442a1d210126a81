"""What stands for network and judge while a recipe's calls are counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from diffrl.tensors import Float, Int, Tensor
from diffrl.types import Prompts

FORWARD, TRAIN = "forward", "train"
"""A forward pass without gradient, and one with its backward pass."""

Calls = Counter[tuple[str, int]]
"""How often the UNet is called, by kind of pass and number of rows."""


@dataclass
class Tally:
    """What the network of one weight was asked for."""

    calls: Calls = field(default_factory=Counter)
    open: int = 0
    most: int = 0

    def begin(self, rows: int) -> None:
        """Note a graph that waits for its backward pass."""
        self.open += rows
        self.most = max(self.most, self.open)

    def drain(self) -> Calls:
        """Return the calls since the last time."""
        calls, self.calls = self.calls, Counter()
        return calls


class _Noted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, tally: Tally) -> Tensor:
        ctx.tally, ctx.rows, ctx.like = tally, len(x), weight
        tally.calls[TRAIN, len(x)] += 1
        tally.begin(len(x))
        return 0.1 * x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.tally.open -= ctx.rows
        return 0.1 * grads[0], ctx.like * 0, None


class OneWeight(nn.Module):
    """Stands for a UNet: notes how many rows it is called with, and whether with gradient."""

    def __init__(self, channels: int, embedded: int | None, tally: Tally) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.config = SimpleNamespace(in_channels=channels, time_cond_proj_dim=embedded)
        self._tally = tally

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, **options: Any) -> tuple[Tensor]:
        """Return a tenth of `x`."""
        if torch.is_grad_enabled():
            return (_Noted.apply(x, self.weight, self._tally),)  # pyright: ignore[reportReturnType]
        self._tally.calls[FORWARD, len(x)] += 1
        return (0.1 * x,)


class CountingJudge:
    """Gives scores of its own, and notes how many pictures are decoded in one call."""

    def __init__(self, batch: int, rewards: int) -> None:
        self._batch, self._rewards = batch, max(rewards, 1)
        self._rng = torch.Generator().manual_seed(0)
        self.decoded: Counter[int] = Counter()
        self.graded = False

    def _note(self, count: int) -> None:
        for start in range(0, count, self._batch):
            self.decoded[min(self._batch, count - start)] += 1

    def __call__(
        self, x0: Float[Tensor, "b *latent"], prompts: Prompts, step: Int[Tensor, "b"]
    ) -> Float[Tensor, "b"]:
        """Return a score per row."""
        return self.each(x0, prompts, step).sum(1)

    def each(
        self, x0: Float[Tensor, "b *latent"], prompts: Prompts, step: Int[Tensor, "b"]
    ) -> Float[Tensor, "b r"]:
        """Return a score per row and reward."""
        self._note(len(x0))
        return torch.randn(len(x0), self._rewards, generator=self._rng)

    def grad(
        self, x0: Float[Tensor, "b *latent"], prompts: Prompts, step: Int[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b *latent"]]:
        """Return scores and gradients."""
        self.graded = True
        return self(x0, prompts, step), torch.ones_like(x0)
