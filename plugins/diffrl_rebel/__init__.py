"""REBEL, PRDP and the hybrid that SDPO is compared with: regression on whole trajectories.

Source: Gao et al., arXiv:2404.16767, with Owen-Oertell/rlcm for diffusion; Deng et al.,
arXiv:2402.08714.
"""

from __future__ import annotations

from diffrl.builtin.advantages import Returns
from diffrl.builtin.reward_predictors import Terminal
from diffrl.builtin.samplers import Ddim
from diffrl.builtin.update_schedulers import Groups, Pairs
from diffrl.hookspecs import hookimpl
from diffrl.recipe import Recipe
from diffrl.stages import Loss
from diffrl_rebel.loss import ProximalRelativeReward, RelativeReward

REBEL = Recipe(
    name="rebel",
    source="arXiv:2404.16767",
    sampler=Ddim(group=2),
    reward_predictor=Terminal(decode="final"),
    advantage_estimator=Returns(gamma=1.0, per="prompt", buffer=32, min_count=16),
    update_scheduler=Pairs(order="trajectories", per_update=8),
    loss=RelativeReward(),
)

PRDP_REBEL = REBEL.but(name="prdp-rebel", source="arXiv:2411.11727", loss=RelativeReward(clip=1e-4))

PRDP = REBEL.but(
    name="prdp",
    source="arXiv:2402.08714",
    sampler=Ddim(group=4),
    advantage_estimator=Returns(gamma=1.0, per="none"),
    update_scheduler=Groups(per_update=4),
    loss=ProximalRelativeReward(),
)


diffrl_api = 1


@hookimpl
def diffrl_losses() -> list[type[Loss]]:
    """Offer the losses to every recipe."""
    return [RelativeReward, ProximalRelativeReward]


@hookimpl
def diffrl_algorithms() -> list[Recipe]:
    """Offer the algorithms to `--algo`."""
    return [REBEL, PRDP, PRDP_REBEL]


__all__ = ["PRDP", "PRDP_REBEL", "REBEL", "ProximalRelativeReward", "RelativeReward"]
