"""Log-probs that ratios start from, computed by calls that are the update's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from diffrl.expected import minibatches
from diffrl.policy import UNetPolicy
from diffrl.recipe import Recipe
from diffrl.rollouts import first_uses
from diffrl.settings import Settings
from diffrl.speed.compiling import sized_as_in_updates
from diffrl.speed.fitting import Fitting
from diffrl.speed.memory import moved
from diffrl.tensors import Bool, Float, Generator, Tensor
from diffrl.trainer.collect import Mode
from diffrl.trainer.fitted import idle, part
from diffrl.trainer.ranks import Ranks
from diffrl.trainer.shares import SEEDS
from diffrl.trainer.tally import Tally
from diffrl.types import Minibatch, gather

Found = tuple[Tensor, Tensor, Tensor, Tensor]
"""Rows and steps whose log-probs a piece gives, which of its values these are, and its values."""


def mode(settings: Settings) -> Mode | None:
    """Return in which mode of autograd log-probs are recomputed; None: sampling's are taken.

    It is the update's own, in which compiled networks are other programs, but where a call that no
    backward pass follows is in the way: of recorded networks and of split weights.
    """
    if not settings.recomputes:
        return None
    alone = settings.speed.graphs or settings.speed.shard != "off"
    return torch.no_grad if alone else torch.enable_grad


def ahead_of(rng: Generator) -> Generator:
    """Return the randomness that an epoch's minibatches will be drawn with, without drawing."""
    ahead = torch.Generator()
    ahead.set_state(rng.get_state())
    torch.randint(SEEDS, (), generator=ahead)  # as an update draws first
    return ahead


def recompute(
    recipe: Recipe,
    policy: UNetPolicy,
    ranks: Ranks,
    tally: Tally,
    rng: Generator,
    micro: Fitting,
    within: Mode,
) -> None:
    """Put log-probs of the update's own calls in the place of those of sampling.

    In half precision a kernel's rounding depends on how many rows it is called with, and on their
    places. So each minibatch is gone through as the update will, before any optimizer step. Of a
    row that meets several others at a step, the first call's is taken.

    Args:
        recipe: of the epoch.
        policy: with the weights that sampled.
        ranks: the run's processes.
        tally: of the epoch, whose trajectories are changed.
        rng: as the update will find it.
        micro: tuples in one call.
        within: the mode of autograd.

    Raises:
        Interrupted: in every process, if one was asked to stop.
    """
    rollout, own, share = tally.found.rollout, tally.advantages, tally.found.share
    assert rollout.path is not None, "a loss that needs log-probs has been given some"
    known = rollout.path.log_prob
    found: list[Found] = []

    def computed(piece: Minibatch) -> Tensor:
        batch = moved(gather(rollout, own, piece), policy.device)
        with within(), sized_as_in_updates():
            return policy.log_prob(batch).detach().to(known)

    def replace_some(whole: Minibatch, new: Bool[Tensor, "m k s"], at: slice) -> None:
        piece, mask = part(whole, at.start, at.stop - at.start), new[at]
        rows, steps = torch.broadcast_tensors(piece.rows[:, :, None], piece.steps[:, None, :])
        found.append((rows[mask], steps[mask], mask.flatten(), computed(piece).flatten()))

    every = minibatches(recipe.update_scheduler, share.prompts, tally.everyone, ahead_of(rng))
    for whole, new in first_uses(every, *tally.everyone.value.shape):
        ranks.heed()  # nothing is updated yet, so that it can end here
        mine, places = share.of(whole)
        for _ in micro.over(len(mine.rows), partial(replace_some, mine, new[places])):
            pass
        if ranks.in_step:
            for _ in range(micro.pieces(share.most(whole)) - micro.pieces(len(mine.rows))):
                computed(idle(whole))
    fresh, replaced = put(known, found)
    tally.moved = (fresh - known).abs()[replaced]
    path = replace(rollout.path, log_prob=fresh)
    tally.found = replace(tally.found, rollout=replace(rollout, path=path))


def put(
    known: Float[Tensor, "n T"], found: Sequence[Found]
) -> tuple[Float[Tensor, "n T"], Bool[Tensor, "n T"]]:
    """Return log-probs with those found in their places, and where these are.

    All at once: each index that goes to a GPU by itself would wait for the calls before it.
    """
    fresh, replaced = known.clone(), torch.zeros_like(known, dtype=torch.bool)
    if found:
        rows, steps, masks, values = (torch.cat(each) for each in zip(*found, strict=True))
        at = rows.to(known.device), steps.to(known.device)
        fresh[at] = values[masks.to(known.device)]
        replaced[at] = True
    return fresh, replaced
