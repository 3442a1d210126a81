"""What the checks look at: one batch that the run's own sampler draws, and how it is trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from diffrl.doctor.held import peak, recorded
from diffrl.doctor.pictures import Pictures
from diffrl.expected import as_loss, as_rewards_are, minibatches
from diffrl.recipe import Recipe
from diffrl.stages import Weights
from diffrl.tensors import Float, Tensor
from diffrl.trainer.collect import Batches, Clock, collect
from diffrl.trainer.epochs import draw
from diffrl.trainer.fitted import Losses, learnt
from diffrl.trainer.loop import cut
from diffrl.trainer.session import Session
from diffrl.trainer.tally import Tally
from diffrl.types import Advantages, Batch, Minibatch, Rollout, gather

LOOKED_AT = 4
"""Trajectories on which networks are compared, at the first and the last step."""


@dataclass(frozen=True)
class Rehearsal:
    """One sampling batch of a run, and its first optimizer step.

    Args:
        recipe: of the run, with the sampler of its next epoch.
        rollout: one sampling batch of this process.
        advantages: of its rows.
        whole: minibatches of the first optimizer step.
        size: tuples in one forward pass of training.
        given: pictures that a person wants scored in place of the drawn ones.
        held: bytes that were held before a size was found for updates, by more than they need.
    """

    recipe: Recipe
    rollout: Rollout
    advantages: Advantages
    whole: tuple[Minibatch, ...]
    size: int
    given: Pictures | None = None
    held: int = 0

    @property
    def pieces(self) -> tuple[Minibatch, ...]:
        """Micro-batches of the first optimizer step, as the run cuts them."""
        return tuple(cut(self.whole, self.size))

    @property
    def rows(self) -> int:
        """Trajectories in one forward pass of training."""
        return max((piece.rows.numel() for piece in self.pieces), default=len(self.rollout))

    def batches(self) -> list[Batch]:
        """Return what the loss sees in the first optimizer step."""
        return [gather(self.rollout, self.advantages, piece) for piece in self.pieces]

    def chunks(self) -> list[Batch]:
        """Return all rows at all steps, as many rows at a time as training takes, one step each."""
        count, steps = len(self.rollout), len(self.rollout.times)
        every = torch.arange(count)[:, None]
        return [
            gather(self.rollout, self.advantages, Minibatch(rows, torch.full((len(rows), 1), k)))
            for rows in every.split(self.rows)
            for k in range(steps)
        ]


def rehearse(session: Session, given: Pictures | None = None) -> Rehearsal:
    """Sample, score and estimate one batch as the run would in its next epoch."""
    train, recipe = session.settings.train, session.settings.recipe
    recipe = recipe.but(sampler=recipe.sampler.for_epoch(session.epoch + 1))
    overlap = session.settings.overlaps(session.ranks.accelerator.device.type)
    pieces = session.pieces
    batches = Batches(pieces, overlap=overlap, drop=train.bad_scores == "drop")
    drawn = pieces.sample.size * (2 if overlap else 1)  # one is scored beside the next
    share = draw(session).first(max(1, drawn // max(1, recipe.sampler.group)))
    judge = session.judge
    found = collect(recipe, session.policy, judge, session.ranks, share, batches, Clock())
    returned = recipe.advantage_estimator(found.everyone, found.share.prompts, session.memory)
    everyone, _ = as_rewards_are(recipe.advantage_estimator, returned, found.everyone)
    tally = Tally(found, everyone, judge.drain())
    every = minibatches(recipe.update_scheduler, found.share.prompts, everyone, session.rng)
    whole = _first_update(found.share.of(one)[0] for one in every)
    size = pieces.micro.size
    return Rehearsal(recipe, found.rollout, tally.advantages, whole, size, given)


def fitted(session: Session, rehearsal: Rehearsal) -> Rehearsal:
    """Halve the pieces of updates until they fit into memory, as a run's first update does."""
    loss, micro = rehearsal.recipe.loss, session.pieces.micro
    device = session.ranks.accelerator.device
    held, cuts = peak(device, recorded(session)), micro.cuts

    def learn(piece: Minibatch, _: int) -> Losses:
        batch = gather(rehearsal.rollout, rehearsal.advantages, piece)
        out = as_loss(loss, loss(session.policy, batch))
        session.ranks.backward(piece.weight * out.value)
        return piece.weight, {}

    trained = session.policy.trained.values()
    for one in rehearsal.whole:
        learnt(one, micro, learn, trained)
    for weight in trained:
        weight.grad = None
    if micro.cuts > cuts and device.type == "cuda":  # what did not fit is not what is needed
        torch.cuda.reset_peak_memory_stats(device)
    return replace(rehearsal, size=micro.size, held=held)


def _first_update(pieces: Iterable[Minibatch]) -> tuple[Minibatch, ...]:
    """Return the pieces up to the first that commits."""
    kept = []
    for piece in pieces:
        kept.append(piece)
        if piece.commit:
            break
    return tuple(kept)


def inputs(
    session: Session, rehearsal: Rehearsal
) -> list[tuple[Float[Tensor, "b *latent"], Float[Tensor, "b"], Float[Tensor, "b *cond"]]]:
    """Return noisy states, timesteps and conditions of a few rows at the first and last step."""
    rollout = rehearsal.rollout
    count = min(LOOKED_AT, rehearsal.rows, len(rollout))
    steps = sorted({0, len(rollout.times) - 1})
    if rollout.path is not None:
        x = rollout.path.x[:count][:, steps]
    else:
        x = session.policy.normal((count, len(steps)), torch.Generator().manual_seed(0))
    cond = rollout.prompts.cond[:count]
    times = [rollout.times[k].expand(count) for k in steps]
    return [(x[:, j], time, cond) for j, time in enumerate(times)]


def predictions(
    session: Session, rehearsal: Rehearsal, weights: Weights = "live"
) -> Float[Tensor, "..."]:
    """Return the network's outputs on `inputs`."""
    with torch.no_grad():
        at = inputs(session, rehearsal)
        return torch.stack([session.policy.predict(x, t, cond, weights) for x, t, cond in at])


def apart(one: Float[Tensor, "..."], other: Float[Tensor, "..."]) -> float:
    """Return the root mean square of a difference, in standard deviations of the second."""
    return float((one - other).square().mean().sqrt() / other.std().clamp(min=1e-12))
