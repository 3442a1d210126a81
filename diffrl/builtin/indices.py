"""Indices of rows and steps, from which update schedulers make minibatches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, pairwise

from diffrl.errors import FitError
from diffrl.tensors import Generator, Int, Tensor
from diffrl.types import Minibatch


def neighbours(group: Int[Tensor, "n"], arity: int) -> Int[Tensor, "m k"]:
    """Return tuples of rows of one group: its first `arity` rows, its next, and so on.

    Rows that fill no tuple are left out.

    Raises:
        FitError: no group has as many rows.
    """
    import torch

    found = [
        rows[i : i + arity]
        for rows in _members(group)
        for i in range(0, len(rows) - arity + 1, arity)
    ]
    _check_any(found, arity)
    return torch.tensor(found)


def combined(group: Int[Tensor, "n"], arity: int) -> Int[Tensor, "m k"]:
    """Return all sets of `arity` rows of one group.

    Raises:
        FitError: no group has as many rows.
    """
    import torch

    found = [chosen for rows in _members(group) for chosen in combinations(rows, arity)]
    _check_any(found, arity)
    return torch.tensor(found)


def whole(group: Int[Tensor, "n"]) -> Int[Tensor, "m k"]:
    """Return the rows of each group, all of one size.

    Raises:
        FitError: groups have different sizes, or a single row.
    """
    import torch

    found = list(_members(group))
    sizes = sorted({len(rows) for rows in found})
    if len(sizes) > 1:
        raise FitError([f"groups have {sizes[0]} to {sizes[-1]} rows; expected all the same"])
    _check_any([rows for rows in found if len(rows) > 1], 2)
    return torch.tensor(found)


def _members(group: Int[Tensor, "n"]) -> Iterable[list[int]]:
    members: dict[int, list[int]] = {}
    for row, number in enumerate(group.tolist()):
        members.setdefault(number, []).append(row)
    return members.values()


def _check_any(found: Sequence[object], arity: int) -> None:
    if not found:
        raise FitError([f"no group has {arity} rows to compare; raise sampler.group"])


def chosen_steps(
    count: int, left: int, trained: int, in_order: bool, rng: Generator
) -> Int[Tensor, "m s"]:
    """Return the steps that each tuple trains: a random share of those that are left.

    Args:
        count: tuples.
        left: steps to choose from, the first ones.
        trained: how many are chosen.
        in_order: whether they come first to last; otherwise in random order.
        rng: of the choice.
    """
    if in_order and trained == left:
        return columns(count, left, None)
    steps = columns(count, left, rng)[:, :trained]
    return steps.sort(1).values if in_order else steps


def ordered(
    rows: Int[Tensor, "m k"], steps: Int[Tensor, "m s"], order: str, per_update: int
) -> Iterator[Minibatch]:
    """Yield minibatches: all steps of some tuples before each optimizer step, or one column."""
    if order == "steps-accumulated":
        yield from accumulated(rows, steps, per_update)
        return
    wide = steps.shape[1] if order == "trajectories" else 1
    for some in steps.split(wide, dim=1):
        for part in parts(len(rows), per_update):
            yield Minibatch(rows[part], some[part])


def accumulated(
    rows: Int[Tensor, "m k"], steps: Int[Tensor, "m s"], per_update: int
) -> Iterator[Minibatch]:
    """Yield one step of a set of tuples at a time; the last of the set commits."""
    count = steps.shape[1]
    for part in parts(len(rows), per_update):
        for j in range(count):
            yield Minibatch(rows[part], steps[part, j : j + 1], j == count - 1, 1 / count)


def permutation(count: int, rng: Generator) -> Int[Tensor, "m"]:
    """Return the numbers below `count` in random order."""
    import torch

    return torch.randperm(count, generator=rng)


def columns(count: int, steps: int, rng: Generator | None) -> Int[Tensor, "m T"]:
    """Return each tuple's steps, permuted for each of them where there is an `rng`."""
    import torch

    if rng is None:
        return torch.arange(steps).expand(count, -1)
    return torch.stack([torch.randperm(steps, generator=rng) for _ in range(count)])


def parts(count: int, size: int) -> list[slice]:
    """Return the fewest slices of at most `size` that cover `count`, as even as possible."""
    number = -(-count // size) if size else 1
    edges = [count * i // number for i in range(number + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]
