"""DDPO: proximal policy optimization on every denoising step.

Source: Black et al., arXiv:2305.13301; kvablack/ddpo-pytorch.
"""

from __future__ import annotations

from diffrl.builtin.advantages import Returns
from diffrl.builtin.reward_predictors import Terminal
from diffrl.builtin.samplers import Ddim
from diffrl.builtin.update_schedulers import RowsFirst
from diffrl.hookspecs import hookimpl
from diffrl.recipe import Recipe
from diffrl.stages import Loss
from diffrl_ddpo.loss import ClippedRatio

DDPO = Recipe(
    name="ddpo",
    source="arXiv:2305.13301",
    sampler=Ddim(),
    reward_predictor=Terminal(decode="final"),
    advantage_estimator=Returns(gamma=1.0, per="prompt", buffer=32, min_count=16),
    update_scheduler=RowsFirst(rows_per_update=16),
    loss=ClippedRatio(clip=1e-4),
)
"""Statistics of the published aesthetic run: 16 rows per process and optimizer step, buffer 32."""


diffrl_api = 1


@hookimpl
def diffrl_losses() -> list[type[Loss]]:
    """Offer the loss to every recipe."""
    return [ClippedRatio]


@hookimpl
def diffrl_algorithms() -> list[Recipe]:
    """Offer the algorithm to `--algo`."""
    return [DDPO]


__all__ = ["DDPO", "ClippedRatio"]
