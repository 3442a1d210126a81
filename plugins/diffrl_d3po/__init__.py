"""D3PO: direct preference optimization of every denoising step.

Source: Yang et al., arXiv:2311.13231; yk7333/d3po.
"""

from __future__ import annotations

from diffrl.builtin.advantages import Returns
from diffrl.builtin.reward_predictors import Terminal
from diffrl.builtin.samplers import Ddim
from diffrl.builtin.update_schedulers import Pairs
from diffrl.hookspecs import hookimpl
from diffrl.recipe import Recipe
from diffrl.stages import Loss
from diffrl_d3po.loss import StepPreference

D3PO = Recipe(
    name="d3po",
    source="arXiv:2311.13231",
    sampler=Ddim(group=2, share_noise=True),
    reward_predictor=Terminal(decode="final"),
    advantage_estimator=Returns(gamma=1.0, per="none"),
    update_scheduler=Pairs(order="steps-accumulated", per_update=8),
    loss=StepPreference(beta=0.1, clip=0.1),
)


diffrl_api = 1


@hookimpl
def diffrl_losses() -> list[type[Loss]]:
    """Offer the loss to every recipe."""
    return [StepPreference]


@hookimpl
def diffrl_algorithms() -> list[Recipe]:
    """Offer the algorithm to `--algo`."""
    return [D3PO]


__all__ = ["D3PO", "StepPreference"]
