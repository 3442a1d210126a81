"""SDPO: dense rewards for every denoising step of few-step diffusion models.

Source: Zhang et al., arXiv:2411.11727; ZiyiZhang27/sdpo.
"""

from __future__ import annotations

from diffrl.builtin.advantages import Returns
from diffrl.builtin.samplers import Ddim
from diffrl.builtin.update_schedulers import Pairs
from diffrl.hookspecs import hookimpl
from diffrl.recipe import Recipe
from diffrl.stages import Loss, RewardPredictor
from diffrl_sdpo.anchors import Anchors
from diffrl_sdpo.loss import RewardDifference

SDPO = Recipe(
    name="sdpo",
    source="arXiv:2411.11727",
    sampler=Ddim(group=2, share_noise=True),
    reward_predictor=Anchors(anchor="adaptive"),
    advantage_estimator=Returns(gamma=0.99, per="prompt-step", buffer=32, min_count=16),
    update_scheduler=Pairs(order="steps-shuffled"),
    loss=RewardDifference(clip=1e-4, decay=0.99),
)


diffrl_api = 1


@hookimpl
def diffrl_reward_predictors() -> list[type[RewardPredictor]]:
    """Offer the anchored reward predictor to every recipe."""
    return [Anchors]


@hookimpl
def diffrl_losses() -> list[type[Loss]]:
    """Offer the loss to every recipe."""
    return [RewardDifference]


@hookimpl
def diffrl_algorithms() -> list[Recipe]:
    """Offer the algorithm to `--algo`."""
    return [SDPO]


__all__ = ["SDPO", "Anchors", "RewardDifference"]
