"""The whole trainer in ten lines: no chunks, no logs, no checkpoints, no branches."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from diffrl.recipe import Recipe
from diffrl.stages import Judge, Sampler
from diffrl.testing.toy import ToyPolicy
from diffrl.types import Memory, gather


def train(
    recipe: Recipe,
    policy: ToyPolicy,
    judge: Judge,
    text: Sequence[str],
    *,
    epochs: int,
    learning_rate: float,
    seed: int = 0,
) -> Memory:
    """Train a toy policy by a recipe, and return what the advantage estimator remembers.

    Raises:
        FitError: the recipe's stages do not fit together.
    """
    recipe.check()
    rng, memory = torch.Generator().manual_seed(seed), Memory()
    optimizer = torch.optim.Adam(policy.parameters(), learning_rate)
    for epoch in range(1, epochs + 1):
        rollout = recipe.sampler.for_epoch(epoch)(policy, text, rng)
        rewards = recipe.reward_predictor(rollout, judge)
        advantages, memory = recipe.advantage_estimator(rewards, rollout.prompts, memory)
        for minibatch in recipe.update_scheduler(rollout.prompts, advantages, rng):
            out = recipe.loss(policy, gather(rollout, advantages, minibatch))
            (minibatch.weight * out.value).backward()
            if minibatch.commit:
                optimizer.step()
                optimizer.zero_grad()
        policy.follow(recipe.update_scheduler.behind(epoch))
    return memory


def score(
    sampler: Sampler, policy: ToyPolicy, judge: Judge, text: Sequence[str], seed: int = 1234
) -> float:
    """Return the mean score of the final latents that a sampler draws, on a fixed seed."""
    rollout = sampler(policy, text, torch.Generator().manual_seed(seed))
    last = torch.full((len(rollout),), len(rollout.times) - 1)
    return judge(rollout.x0, rollout.prompts, last).mean().item()
