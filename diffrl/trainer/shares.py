"""Who does what of an epoch: the same prompts, groups and updates for any number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch

from diffrl.errors import FitError
from diffrl.streams import Streams
from diffrl.tensors import Generator, Int, Tensor
from diffrl.types import Minibatch, Prompts

SEEDS = 2**31
"""First seeds are drawn below this."""


@dataclass(frozen=True)
class Share:
    """The groups of an epoch, and which of them each process samples, scores and trains on.

    Args:
        text: the prompt of every group.
        seeds: of every group's noise.
        rows: in a group.
        owned: by process, the groups that it has, ascending.
        rank: this process.
    """

    text: tuple[str, ...]
    seeds: tuple[int, ...]
    rows: int
    owned: tuple[tuple[int, ...], ...]
    rank: int = 0

    @property
    def own(self) -> tuple[int, ...]:
        """The groups of this process."""
        return self.owned[self.rank]

    @property
    def filled(self) -> tuple[int, ...]:
        """The groups of this process, and its first again until there are as many as any has."""
        most = max(len(groups) for groups in self.owned)
        return self.own + self.own[:1] * (most - len(self.own))

    @property
    def prompts(self) -> Prompts:
        """What every row of the epoch is asked to show, without conditions."""
        group = torch.arange(len(self.text)).repeat_interleave(self.rows)
        text = tuple(t for t in self.text for _ in range(self.rows))
        return Prompts(text, group, torch.zeros(len(text), 0))

    @cached_property
    def own_rows(self) -> Int[Tensor, "n"]:
        """The numbers of this process's rows among all of them."""
        return self._rows(self.own)

    @property
    def order(self) -> Int[Tensor, "n"]:
        """The numbers of all rows, in the order of the processes that have them."""
        return self._rows([g for groups in self.owned for g in groups])

    def streams(self, groups: Sequence[int]) -> Streams:
        """Return the randomness of some groups."""
        return Streams([self.seeds[g] for g in groups])

    def dealt(self, turns: Sequence[int]) -> Share:
        """Return the share where groups are dealt out in turns, given in that order."""
        count = len(self.owned)
        return replace(self, owned=tuple(tuple(sorted(turns[r::count])) for r in range(count)))

    def first(self, groups: int) -> Share:
        """Return the share where each process has no more than its first few groups."""
        kept = {g for own in self.owned for g in own[:groups]}
        return self.without([g for g in range(len(self.text)) if g not in kept])

    def without(self, groups: Sequence[int]) -> Share:
        """Return the share where some groups are left out, the others numbered anew."""
        gone = set(groups)
        left = [g for g in range(len(self.text)) if g not in gone]
        number = {g: i for i, g in enumerate(left)}
        return replace(
            self,
            text=tuple(self.text[g] for g in left),
            seeds=tuple(self.seeds[g] for g in left),
            owned=tuple(tuple(number[g] for g in one if g in number) for one in self.owned),
        )

    def of(self, whole: Minibatch) -> tuple[Minibatch, Int[Tensor, "own"]]:
        """Return this process's tuples of a minibatch, by its own rows, and their places in it.

        Weights are such that gradients of all processes add up to that of the whole minibatch.

        Raises:
            FitError: a tuple has rows of several groups, and there are several processes.
        """
        group = whole.rows // self.rows
        if len(self.owned) > 1 and bool((group != group[:, :1]).any()):
            raise FitError(
                ["the update scheduler compares rows of different groups, which may be in different"
                 " processes; run it in one process"]
            )  # fmt: skip
        places = torch.isin(group[:, 0], torch.tensor(self.own, dtype=group.dtype)).nonzero()[:, 0]
        rows = torch.searchsorted(self.own_rows, whole.rows[places])
        weight = whole.weight * len(places) / max(len(group), 1)
        return replace(whole, rows=rows, steps=whole.steps[places], weight=weight), places

    def most(self, whole: Minibatch) -> int:
        """Return how many tuples of a minibatch the process has that has most of them."""
        owner = torch.zeros(len(self.text), dtype=torch.long)
        for rank, groups in enumerate(self.owned):
            owner[list(groups)] = rank
        return int(owner[whole.rows[:, 0] // self.rows].bincount().max())

    def _rows(self, groups: Sequence[int]) -> Int[Tensor, "n"]:
        first = torch.tensor(groups, dtype=torch.long) * self.rows
        return (first[:, None] + torch.arange(self.rows)).flatten()


def shared(
    prompts: Sequence[str], count: int, rows: int, rng: Generator, processes: int = 1, rank: int = 0
) -> Share:
    """Draw an epoch's prompts uniformly and independently, one for each of `count` groups.

    The draw is the same in every process; as even a number of groups as possible goes to each.

    Source: ZiyiZhang27/sdpo and kvablack/ddpo-pytorch, `random.choice` over the animals.
    """
    drawn = torch.randint(len(prompts), (count,), generator=rng)
    first = int(torch.randint(SEEDS, (), generator=rng))
    edges = [count * i // processes for i in range(processes + 1)]
    return Share(
        text=tuple(prompts[int(i)] for i in drawn),
        seeds=tuple(range(first, first + count)),
        rows=rows,
        owned=tuple(tuple(range(a, b)) for a, b in pairwise(edges)),
        rank=rank,
    )
