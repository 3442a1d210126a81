"""Sampling and updating in pieces that fit into memory, whatever that turns out to be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch

from diffrl.policy import UNetPolicy
from diffrl.speed.fitting import Fitting
from diffrl.speed.memory import moved
from diffrl.stages import Sampler
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
            prompts = text[start : start + max(1, rows // group)]
            with torch.no_grad(), policy.sampling():
                return sampler(policy, prompts, rng), len(prompts)

        def undo(before: Tensor = before) -> None:
            rng.set_state(before)

        most = (len(text) - start) * group
        rollout, drawn = pieces.run(draw, most, group, undo)
        yield rollout if keep is None else moved(rollout, keep)
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


def learnt(
    whole: Minibatch,
    pieces: Fitting,
    learn: Callable[[Minibatch], Losses],
    trained: Iterable[Tensor],
    rng: Generator,
    together: bool = False,
) -> list[Losses]:
    """Return what `learn` gives for each part of a minibatch, having added all their gradients.

    Where memory ends in a part, the gradients and `rng` are set back to what they were before it,
    and it is done again in two. The sum of the gradients is the same.

    Args:
        whole: what is learnt from.
        pieces: how many tuples at once.
        learn: a backward pass; its return is passed on.
        trained: weights that hold the gradients.
        rng: that losses draw from.
        together: whether gradients are exchanged where a part commits. Memory must not end there,
            so a size that is new is tried without an exchange first.
    """
    weights, done, start = list(trained), [], 0
    while start < len(whole.rows):
        back = _way_back(weights, rng)

        def attempt(
            tuples: int, start: int = start, back: Callable[[], None] = back
        ) -> tuple[int, Losses]:
            one = part(whole, start, tuples)
            count = len(one.rows)
            if together and one.commit and count > pieces.proven:
                learn(replace(one, commit=False))
                back()
            found = learn(one)
            pieces.proven = max(pieces.proven, count)
            return count, found

        count, found = pieces.run(attempt, len(whole.rows) - start, undo=back)
        done.append(found)
        start += count
    return done


def _way_back(weights: Sequence[Tensor], rng: Generator) -> Callable[[], None]:
    """Return a function that sets gradients and random numbers to what they are now."""
    kept = [None if w.grad is None else w.grad.clone() for w in weights]
    state = rng.get_state()

    def back() -> None:
        for weight, gradient in zip(weights, kept, strict=True):
            weight.grad = None if gradient is None else gradient.clone()
        rng.set_state(state)

    return back
