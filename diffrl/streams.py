"""Randomness that belongs to what is drawn, so that batches and processes do not change it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from diffrl.tensors import Float, Generator, Tensor

MOST = 2**32
"""Seeds of torch's CPU generators are taken modulo this."""


class Streams(torch.Generator):
    """One generator for each of several items, such as the prompts that a sampler is handed.

    `normal` draws every item's rows from the item's own generator: what they get is the same in
    whatever batch or process they are. As a generator itself it is seeded by the first item, for
    code that knows nothing of streams; what that draws depends on the batch.

    Args:
        seeds: of the items' generators, in order.
    """

    def __new__(cls, seeds: Sequence[int]) -> Streams:
        """Return a generator on the CPU."""
        made: Streams = super().__new__(cls)
        return made

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = tuple(seed % MOST for seed in seeds)
        self.manual_seed(self.seeds[0] if self.seeds else 0)

    @cached_property
    def each(self) -> list[Generator]:
        """The items' generators, made when they are first needed."""
        return [torch.Generator().manual_seed(seed) for seed in self.seeds]


def each(rng: Generator, count: int) -> list[Generator]:
    """Return a generator for each of `count` items: its own, or the common one.

    Raises:
        ValueError: if there are streams for another number of items.
    """
    if not isinstance(rng, Streams):
        return [rng] * count
    if len(rng.seeds) != count:
        raise ValueError(f"{len(rng.seeds)} streams for {count} items")
    return rng.each


def some(rng: Generator, items: slice) -> Generator:
    """Return the randomness of some of the items, from its beginning, or the common one."""
    return Streams(rng.seeds[items]) if isinstance(rng, Streams) else rng


def normal(
    shape: Sequence[int], rng: Generator, dtype: torch.dtype | None = None
) -> Float[Tensor, "..."]:
    """Return standard normal noise on the CPU; each stream draws its share of the first axis.

    Raises:
        ValueError: if the first axis is not a multiple of the number of streams.
    """
    if not isinstance(rng, Streams):
        return torch.randn(tuple(shape), generator=rng, dtype=dtype)
    if not rng.seeds or shape[0] % len(rng.seeds):
        raise ValueError(f"cannot share {shape[0]} rows among {len(rng.seeds)} streams")
    share = (shape[0] // len(rng.seeds), *shape[1:])
    return torch.cat([torch.randn(share, generator=one, dtype=dtype) for one in rng.each])
