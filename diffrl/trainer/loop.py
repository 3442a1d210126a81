"""One epoch of any algorithm: sample, score, estimate, update. Without a branch per algorithm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from diffrl.judge import Ledger, WeighedJudge
from diffrl.policy import UNetPolicy
from diffrl.recipe import Recipe
from diffrl.speed.compiling import seconds_compiling
from diffrl.speed.fitting import Pieces
from diffrl.speed.memory import moved
from diffrl.tensors import Float, Generator, Tensor
from diffrl.trainer.collect import Clock, collect, without_bad
from diffrl.trainer.fitted import learnt, part
from diffrl.trainer.ranks import Ranks
from diffrl.types import Advantages, Batch, Memory, Minibatch, Rewards, Rollout, gather

Observe = Callable[[int, Rollout, Rewards], None]


@dataclass(frozen=True)
class Batches:
    """How an epoch is cut into pieces, and who watches it.

    Args:
        pieces: their sizes, in sampling and in updates.
        observe: is told of the rollout and its rewards.
        overlap: whether pieces are scored while the next one is sampled.
        drop: whether groups without finite scores are left out.
        stop: is called after every optimizer step, and raises if the run is to end there.
        keep: the device that rollouts are kept on, where it is not the policy's.
    """

    pieces: Pieces
    observe: Observe
    overlap: bool = False
    drop: bool = False
    stop: Callable[[], None] = lambda: None
    keep: str | None = None


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
    compiling: float = 0.0


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
    clock, before = Clock(), seconds_compiling()
    recipe = recipe.but(sampler=recipe.sampler.for_epoch(epoch))
    rollout, rewards = collect(
        recipe,
        policy,
        judge,
        ranks,
        text,
        rng,
        batches.pieces.sample,
        batches.overlap,
        clock,
        batches.keep,
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
    update(recipe, policy, ranks, tally, rng, batches.pieces, batches.stop)
    policy.follow(recipe.update_scheduler.behind(epoch))
    clock.lap("update")
    tally.compiling = seconds_compiling() - before
    return tally, memory


def update(
    recipe: Recipe,
    policy: UNetPolicy,
    ranks: Ranks,
    tally: Tally,
    rng: Generator,
    pieces: Pieces,
    stop: Callable[[], None] = lambda: None,
) -> None:
    """Make the epoch's optimizer steps; `stop` is called after each, and may raise."""
    rollout, advantages = tally.rollout, tally.advantages
    minibatches = recipe.update_scheduler(rollout.prompts, advantages, rng)

    def gathered(piece: Minibatch) -> Batch:
        return moved(gather(rollout, advantages, piece), policy.device)

    def learn(piece: Minibatch) -> tuple[float, dict[str, Tensor]]:
        with ranks.accumulating(piece.commit):
            out = recipe.loss(policy, gathered(piece))
            ranks.backward(piece.weight * out.value)
        return piece.weight, {"value": out.value.detach(), **out.metrics}

    for whole in minibatches:
        if tally.gap is None and "log_prob" in recipe.sampler.gives:
            with ranks.accumulating(False):
                tally.gap = pieces.micro.run(
                    lambda n, whole=whole: log_prob_gap(policy, gathered(part(whole, 0, n))),
                    len(whole.rows),
                )
        tally.losses += learnt(
            whole, pieces.micro, learn, policy.trained.values(), policy.noise_rng, ranks.count > 1
        )
        if whole.commit:
            tally.grad_norms.append(ranks.commit())
            stop()


def cut(minibatches: Iterable[Minibatch], tuples: int) -> Iterator[Minibatch]:
    """Cut minibatches into pieces of at most `tuples`, whose weighted mean gradient is the same."""
    for whole in minibatches:
        for start in range(0, len(whole.rows), tuples):
            yield part(whole, start, tuples)


def log_prob_gap(policy: UNetPolicy, batch: Batch) -> Float[Tensor, "..."]:
    """Return |log-ratio| of weights that have not changed since sampling: ideally all zero.

    Computed as the loss computes it, with gradient: a compiled network may round differently then.
    """
    assert batch.log_prob is not None
    return (policy.log_prob(batch).detach() - batch.log_prob).abs().flatten()
