"""One epoch of any algorithm: sample, score, estimate, update. Without a branch per algorithm."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from diffrl.errors import OutOfMemory
from diffrl.expected import (
    as_loss,
    as_rewards_are,
    minibatches,
    noiseless,
    refuse_noiseless,
)
from diffrl.judge import WeightedJudge
from diffrl.policy import UNetPolicy
from diffrl.recipe import Recipe
from diffrl.speed.compiling import seconds_compiling
from diffrl.speed.fitting import in_words
from diffrl.speed.memory import moved
from diffrl.streams import Streams
from diffrl.tensors import Float, Generator, Tensor
from diffrl.trainer.collect import Batches, Clock, Collected, collect
from diffrl.trainer.exchange import hearing
from diffrl.trainer.fitted import Losses, idle, learnt, part
from diffrl.trainer.ranks import Ranks
from diffrl.trainer.recompute import ahead_of, recompute
from diffrl.trainer.shares import SEEDS, Share
from diffrl.trainer.tally import Tally
from diffrl.types import Advantages, Batch, Memory, Minibatch, gather


def train_epoch(
    recipe: Recipe,
    policy: UNetPolicy,
    judge: WeightedJudge,
    ranks: Ranks,
    share: Share,
    memory: Memory,
    rng: Generator,
    epoch: int,
    batches: Batches,
) -> tuple[Tally, Memory]:
    """Run one epoch on this process's share of its groups.

    Args:
        recipe: what is done.
        policy: what is trained.
        judge: what scores.
        ranks: the run's processes.
        share: the epoch's groups.
        memory: of the advantage estimator.
        rng: in the same state in every process.
        epoch: its number, from 1 on.
        batches: how it is cut.

    Returns:
        What happened, and the advantage estimator's memory.
    """
    clock, before = Clock(), seconds_compiling()
    recipe = recipe.but(sampler=recipe.sampler.for_epoch(epoch))
    found = collect(recipe, policy, judge, ranks, share, batches, clock)
    estimator = recipe.advantage_estimator
    there = found.everyone.value.device  # a checkpoint's memory is on the CPU
    memory = Memory({key: past.to(there) for key, past in memory.history.items()})
    given = estimator(found.everyone, found.share.prompts, memory)
    everyone, memory = as_rewards_are(estimator, given, found.everyone)
    tally = Tally(found, everyone, judge.drain(), clock.laps)
    batches.observe(epoch, found.rollout, found.rewards)
    tally.found = found = lean(found)
    clock.lap("observe")
    if batches.recompute is not None:
        with alone_where_memory_ends(ranks):
            recompute(recipe, policy, ranks, tally, rng, batches.pieces.micro, batches.recompute)
    update(recipe, policy, ranks, tally, rng, batches)
    with alone_where_memory_ends(ranks):
        policy.follow(recipe.update_scheduler.behind(epoch))
    clock.lap("update")
    tally.compiling = seconds_compiling() - before
    return tally, memory


def lean(found: Collected) -> Collected:
    """Return what was collected without predicted states, which updates do not read."""
    path = found.rollout.path
    if path is None or path.x0_hat is None:
        return found
    return replace(found, rollout=replace(found.rollout, path=replace(path, x0_hat=None)))


def turns(recipe: Recipe, share: Share, rng: Generator, epoch: int) -> list[int]:
    """Return the groups in the order in which the epoch's updates will first use them.

    Dealt out in this order, the tuples of each optimizer step are shared evenly by the processes.
    A scheduler that looks at advantages may do otherwise, which costs time and nothing else.
    """
    prompts, steps = share.prompts, recipe.sampler.for_epoch(epoch).steps
    unknown = Advantages(torch.ones(len(prompts), steps))
    seen = dict[int, None]()
    for whole in minibatches(recipe.update_scheduler, prompts, unknown, ahead_of(rng)):
        seen |= dict.fromkeys((whole.rows[:, 0] // share.rows).tolist())
        if len(seen) == len(share.text):
            break
    return list(seen | dict.fromkeys(range(len(share.text))))


def update(
    recipe: Recipe,
    policy: UNetPolicy,
    ranks: Ranks,
    tally: Tally,
    rng: Generator,
    batches: Batches,
) -> None:
    """Make the epoch's optimizer steps; `batches.stop` is called after each, and may raise.

    Every process goes through the minibatches of all, and computes its own tuples.
    """
    share, own, pieces = tally.found.share, tally.advantages, batches.pieces
    noise = int(torch.randint(SEEDS, (), generator=rng))
    blank = noiseless(tally.found.rollout) if recipe.reads_density else frozenset[int]()
    for whole in minibatches(recipe.update_scheduler, share.prompts, tally.everyone, rng):
        refuse_noiseless(blank, whole, tally.found.rollout)
        mine, places = share.of(whole)
        seeds = [noise + place for place in places.tolist()]
        noise += len(whole.rows)

        def learn(piece: Minibatch, start: int, seeds: list[int] = seeds) -> Losses:
            policy.noise_rng = Streams(seeds[start : start + len(piece.rows)])
            batch = moved(gather(tally.found.rollout, own, piece), policy.device)
            policy.seen = None
            out = as_loss(recipe.loss, recipe.loss(policy, batch))
            ranks.backward(piece.weight * out.value)
            fresh = not tally.grad_norms  # weights are as they sampled
            if fresh and recipe.sampler.live and "log_prob" in recipe.sampler.gives:
                if (gap := log_prob_gap(policy.seen, batch)) is not None:
                    tally.gaps.append(gap)
            return piece.weight, as_figures({**out.metrics, "value": out.value}, policy.device)

        with alone_where_memory_ends(ranks):
            tally.losses += learnt(mine, pieces.micro, learn, policy.trained.values())
            if ranks.in_step:
                ahead = pieces.micro.pieces(share.most(whole)) - pieces.micro.pieces(len(mine.rows))
                keep_pace(recipe, policy, ranks, tally, whole, ahead)
        if whole.commit:
            with alone_where_memory_ends(ranks):
                tally.grad_norms.append(ranks.commit())
            batches.stop()
    with alone_where_memory_ends(ranks):
        ranks.bad_steps.read()  # waits for what was asked of a GPU, which is the update's time


def as_figures(told: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
    """Return what a loss says of itself as tensors on a device, without gradient."""
    every = {name: torch.as_tensor(said, device=device) for name, said in told.items()}
    return {name: said.detach().reshape(()) for name, said in every.items()}


def keep_pace(
    recipe: Recipe, policy: UNetPolicy, ranks: Ranks, tally: Tally, whole: Minibatch, count: int
) -> None:
    """Go through a tuple some times without learning from it, as other processes do from theirs.

    Where weights are split, all processes must make as many passes as the one that makes most.
    """
    one = idle(whole)
    for _ in range(count):
        policy.noise_rng = Streams([0])
        batch = moved(gather(tally.found.rollout, tally.advantages, one), policy.device)
        ranks.backward(one.weight * recipe.loss(policy, batch).value)


@contextlib.contextmanager
def alone_where_memory_ends(ranks: Ranks) -> Iterator[None]:
    """Raise what a lost process raises where memory ends in one of several.

    The others wait for its gradients, and would not hear of an epoch that is undone or saved.

    Raises:
        OutOfMemory: in a run of one process.
        ProcessLost: in its place, where there are several; where weights are split, also of another
            one that the network's own exchange misses.
    """
    try:
        with in_words("memory ends in an optimizer step"), hearing(backend_alone=True):
            yield
    except OutOfMemory as error:
        if ranks.count == 1:
            raise
        raise ranks.lost(error) from error


def cut(minibatches: Iterable[Minibatch], tuples: int) -> Iterator[Minibatch]:
    """Cut minibatches into pieces of at most `tuples`, whose weighted mean gradient is the same."""
    for whole in minibatches:
        for start in range(0, len(whole.rows), tuples):
            yield part(whole, start, tuples)


def log_prob_gap(seen: Float[Tensor, "m k s"] | None, batch: Batch) -> Float[Tensor, "..."] | None:
    """Return |log-ratio| of weights that have not changed since sampling: ideally all zero.

    Args:
        seen: the log-densities that the loss has computed, if any.
        batch: with those of sampling, if it has any.
    """
    if seen is None or batch.log_prob is None or seen.shape != batch.log_prob.shape:
        return None
    return (seen - batch.log_prob).abs().flatten()
