"""Sampling and updating in pieces that fit into memory, whatever that turns out to be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch

from diffrl.expected import rows_side_by_side
from diffrl.policy import UNetPolicy
from diffrl.speed.fitting import Fitting
from diffrl.speed.memory import moved
from diffrl.stages import Sampler
from diffrl.streams import some
from diffrl.tensors import Generator, Tensor
from diffrl.types import Minibatch, Rollout

Losses = tuple[float, dict[str, Tensor]]
"""The weight of a part, and the figures of its loss."""


def sampled(
    sampler: Sampler,
    policy: UNetPolicy,
    text: Sequence[str],
    rng: Generator,
    pieces: Fitting,
    keep: str | None = None,
) -> Iterator[Rollout]:
    """Yield the rollouts of all prompts, as many trajectories at a time as fit.

    A piece that did not fit is drawn again from the same state of `rng`. `keep` names the device
    that rollouts are kept on, if it is another one than the policy's.
    """
    group, start = max(1, sampler.group), 0
    while start < len(text):
        before = rng.get_state()

        def draw(rows: int, start: int = start) -> tuple[Rollout, int]:
            at = slice(start, start + max(1, rows // group))
            with torch.no_grad(), policy.sampling():
                rollout = sampler(policy, text[at], some(rng, at))
            rows_side_by_side(sampler, rollout, text[at], group)
            return rollout, len(text[at])

        def undo(before: Tensor = before) -> None:
            rng.set_state(before)

        most = (len(text) - start) * group
        rollout, drawn = pieces.run(draw, most, group, undo)
        kept = rollout if keep is None else moved(rollout, keep)
        del rollout  # not held while the next piece is drawn
        yield kept
        del kept
        start += drawn


def part(whole: Minibatch, start: int, tuples: int) -> Minibatch:
    """Return some tuples of a minibatch, weighted with their share; the last part commits.

    Losses are means over tuples, so the sum of the parts' gradients is that of the whole.
    """
    rows = whole.rows[start : start + tuples]
    return replace(
        whole,
        rows=rows,
        steps=whole.steps[start : start + tuples],
        weight=whole.weight * len(rows) / len(whole.rows),
        commit=whole.commit and start + len(rows) == len(whole.rows),
    )


def idle(whole: Minibatch) -> Minibatch:
    """Return a tuple of a process's first rows that weighs nothing, for one that keeps pace."""
    rows = torch.arange(whole.rows.shape[1])[None]
    return Minibatch(rows, whole.steps[:1], commit=False, weight=0.0)


def learnt(
    whole: Minibatch,
    pieces: Fitting,
    learn: Callable[[Minibatch, int], Losses],
    trained: Iterable[Tensor],
) -> list[Losses]:
    """Return what `learn` gives for each part of a minibatch, having added all their gradients.

    Where memory ends in a part, the gradients are set back to what they were before it, and it is
    done again in two. The sum of the gradients is the same.

    Args:
        whole: what is learnt from.
        pieces: how many tuples at once.
        learn: a backward pass on a part, which is told the part's first tuple.
        trained: weights that hold the gradients.
    """
    before, done, start = Gradients(tuple(trained)), [], 0
    while start < len(whole.rows):

        def attempt(tuples: int, start: int = start) -> tuple[int, Losses]:
            one = part(whole, start, tuples)
            if pieces.may_repeat(tuples):
                before.keep()
            return len(one.rows), learn(one, start)

        count, found = pieces.run(attempt, len(whole.rows) - start, undo=before.put_back)
        done.append(found)
        start += count
    return done


class Gradients:
    """The gradients of weights, as they were before something that may have to be done again."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._weights = weights
        self._kept: list[Tensor | None] | None = None

    def keep(self) -> None:
        """Copy what there is now; where memory ends in that, nothing is kept or changed."""
        now, room = [w.grad for w in self._weights], self._kept
        self._kept = None
        if room is None or any((a is None) != (b is None) for a, b in zip(now, room, strict=True)):
            del room
            room = [None if one is None else torch.empty_like(one) for one in now]
        if there := [one for one in now if one is not None]:
            torch._foreach_copy_([one for one in room if one is not None], there)
        self._kept = room

    def put_back(self) -> None:
        """Set gradients back to what was kept, which is theirs from now on."""
        if self._kept is not None:
            for weight, gradient in zip(self._weights, self._kept, strict=True):
                weight.grad = gradient
        self._kept = None
