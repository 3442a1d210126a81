"""One epoch of any algorithm: sample, score, estimate, update. Without a branch per algorithm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from diffrl.judge import Ledger, WeighedJudge
from diffrl.policy import UNetPolicy
from diffrl.recipe import Recipe
from diffrl.tensors import Float, Generator, Tensor
from diffrl.trainer.collect import Clock, collect, without_bad
from diffrl.trainer.ranks import Ranks
from diffrl.types import Advantages, Batch, Memory, Minibatch, Rewards, Rollout, gather

Observe = Callable[[int, Rollout, Rewards], None]


@dataclass(frozen=True)
class Batches:
    """How an epoch is cut into pieces, and who watches it.

    Args:
        sample: trajectories per sampling call.
        micro: tuples per backward pass.
        observe: is told of the rollout and its rewards.
        overlap: whether pieces are scored while the next one is sampled.
        drop: whether groups without finite scores are left out.
        stop: is called after every optimizer step, and raises if the run is to end there.
    """

    sample: int
    micro: int
    observe: Observe
    overlap: bool = False
    drop: bool = False
    stop: Callable[[], None] = lambda: None


@dataclass
class Tally:
    """What an epoch leaves behind for its line of metrics. Tensors stay on the device."""

    rewards: Rewards
    advantages: Advantages
    rollout: Rollout
    ledger: Ledger
    seconds: dict[str, float] = field(default_factory=dict)
    losses: list[tuple[float, dict[str, Tensor]]] = field(default_factory=list)
    grad_norms: list[Tensor] = field(default_factory=list)
    gap: Float[Tensor, "..."] | None = None
    dropped: int = 0


def train_epoch(
    recipe: Recipe,
    policy: UNetPolicy,
    judge: WeighedJudge,
    ranks: Ranks,
    text: Sequence[str],
    memory: Memory,
    rng: Generator,
    epoch: int,
    batches: Batches,
) -> tuple[Tally, Memory]:
    """Run one epoch on `text`, one group of trajectories each.

    Returns:
        What happened, and the advantage estimator's memory.
    """
    clock = Clock()
    recipe = recipe.but(sampler=recipe.sampler.for_epoch(epoch))
    rollout, rewards = collect(
        recipe, policy, judge, ranks, text, rng, batches.sample, batches.overlap, clock
    )
    ledger, dropped = judge.drain(), 0
    if batches.drop:
        rollout, rewards, dropped = without_bad(rollout, rewards)
    advantages, memory = ranks.advantages(
        recipe.advantage_estimator, rewards, rollout.prompts, memory
    )
    tally = Tally(rewards, advantages, rollout, ledger, clock.laps, dropped=dropped)
    batches.observe(epoch, rollout, rewards)
    clock.lap("observe")
    update(recipe, policy, ranks, tally, rng, batches.micro, batches.stop)
    policy.follow(recipe.update_scheduler.behind(epoch))
    clock.lap("update")
    return tally, memory


def update(
    recipe: Recipe,
    policy: UNetPolicy,
    ranks: Ranks,
    tally: Tally,
    rng: Generator,
    micro: int,
    stop: Callable[[], None] = lambda: None,
) -> None:
    """Make the epoch's optimizer steps; `stop` is called after each, and may raise."""
    rollout, advantages = tally.rollout, tally.advantages
    minibatches = recipe.update_scheduler(rollout.prompts, advantages, rng)
    for piece in cut(minibatches, micro):
        batch = gather(rollout, advantages, piece)
        if tally.gap is None and "log_prob" in recipe.sampler.gives:
            tally.gap = log_prob_gap(policy, batch)
        with ranks.accumulating(piece.commit):
            out = recipe.loss(policy, batch)
            ranks.backward(piece.weight * out.value)
        tally.losses.append((piece.weight, {"value": out.value.detach(), **out.metrics}))
        if piece.commit:
            tally.grad_norms.append(ranks.commit())
            stop()


def cut(minibatches: Iterable[Minibatch], tuples: int) -> Iterator[Minibatch]:
    """Cut minibatches into pieces of at most `tuples`, whose weighted mean gradient is the same.

    Losses are means over tuples, so each piece weighs its share; the last one commits.
    """
    for whole in minibatches:
        starts = range(0, len(whole.rows), tuples)
        for start in starts:
            rows = whole.rows[start : start + tuples]
            yield replace(
                whole,
                rows=rows,
                steps=whole.steps[start : start + tuples],
                weight=whole.weight * len(rows) / len(whole.rows),
                commit=whole.commit and start == starts[-1],
            )


def log_prob_gap(policy: UNetPolicy, batch: Batch) -> Float[Tensor, "..."]:
    """Return |log-ratio| of weights that have not changed since sampling: ideally all zero."""
    assert batch.log_prob is not None
    with torch.no_grad():
        return (policy.log_prob(batch) - batch.log_prob).abs().flatten()
