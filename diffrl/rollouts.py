"""Joining and picking rollouts and their rewards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace

import torch

from diffrl.tensors import Bool, Int, Tensor
from diffrl.types import Minibatch, Path, Prompts, Rewards, Rollout


def concat(rollouts: Sequence[Rollout]) -> Rollout:
    """Return rollouts of equal times as one; groups are renumbered so that they stay apart."""
    if len(rollouts) == 1:
        return rollouts[0]
    offset, groups = 0, []
    for r in rollouts:
        groups.append(r.prompts.group + offset)
        offset += int(r.prompts.group.max()) + 1
    prompts = Prompts(
        text=tuple(t for r in rollouts for t in r.prompts.text),
        group=torch.cat(groups),
        cond=torch.cat([r.prompts.cond for r in rollouts]),
    )
    first = rollouts[0]
    return Rollout(
        prompts=prompts,
        times=first.times,
        x0=torch.cat([r.x0 for r in rollouts]),
        path=_concat_tensors([r.path for r in rollouts if r.path]) if first.path else None,
        labels=None
        if first.labels is None
        else torch.cat([r.labels for r in rollouts if r.labels is not None]),
    )


def _concat_tensors(paths: Sequence[Path]) -> Path:
    first = paths[0]
    tensors = {
        f.name: torch.cat([getattr(p, f.name) for p in paths])
        for f in fields(first)
        if isinstance(getattr(first, f.name), torch.Tensor)
    }
    return replace(first, **tensors)


def concat_rewards(pieces: Sequence[Rewards]) -> Rewards:
    """Return rewards of several rollouts as one."""
    if len(pieces) == 1:
        return pieces[0]
    grads, eachs = [p.grad for p in pieces], [p.each for p in pieces]
    return Rewards(
        torch.cat([p.value for p in pieces]),
        None if grads[0] is None else torch.cat([g for g in grads if g is not None]),
        None if eachs[0] is None else torch.cat([e for e in eachs if e is not None]),
    )


def rows_of(rollout: Rollout, rows: Int[Tensor, "k"]) -> Rollout:
    """Return some rows of a rollout, in the given order."""
    path = rollout.path
    picked = None
    if path is not None:
        tensors = {
            f.name: getattr(path, f.name)[rows]
            for f in fields(path)
            if isinstance(getattr(path, f.name), torch.Tensor)
        }
        picked = replace(path, **tensors)
    return Rollout(
        prompts=rollout.prompts.pick(rows.tolist()),
        times=rollout.times,
        x0=rollout.x0[rows],
        path=picked,
        labels=None if rollout.labels is None else rollout.labels[rows],
    )


def take(rollout: Rollout, rewards: Rewards, rows: Int[Tensor, "k"]) -> tuple[Rollout, Rewards]:
    """Return some rows of a rollout and of its rewards, in the given order."""
    return rows_of(rollout, rows), only(rewards, rows)


def only(rewards: Rewards, rows: Int[Tensor, "k"]) -> Rewards:
    """Return the rewards of some rows, in the given order."""
    return Rewards(
        rewards.value[rows],
        None if rewards.grad is None else rewards.grad[rows],
        None if rewards.each is None else rewards.each[rows],
    )


def first_uses(
    minibatches: Iterable[Minibatch], rows: int, steps: int
) -> Iterator[tuple[Minibatch, Bool[Tensor, "m k s"]]]:
    """Yield the minibatches that use a row at a step for the first time, and where they do.

    Args:
        minibatches: of an epoch, in order.
        rows: of all trajectories.
        steps: of each.
    """
    new = torch.ones(rows * steps, dtype=torch.bool)
    for whole in minibatches:
        at = (whole.rows[:, :, None] * steps + whole.steps[:, None, :]).flatten()
        order = at.argsort(stable=True)
        first = torch.ones_like(at, dtype=torch.bool)
        first[order[1:]] = at[order[1:]] != at[order[:-1]]
        found = first & new[at]
        new[at] = False
        if bool(found.any()):
            yield whole, found.view(*whole.rows.shape, -1)
