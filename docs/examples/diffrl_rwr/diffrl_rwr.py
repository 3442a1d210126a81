"""Reward-weighted regression: denoise your own samples, the better ones harder."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, PositiveFloat

from diffrl import Batch, Loss, LossOut, Policy, Recipe, hookimpl
from diffrl.builtin.advantages import Returns
from diffrl.builtin.reward_predictors import Terminal
from diffrl.builtin.samplers import Ode
from diffrl.builtin.update_schedulers import RowsFirst


class WeightedDenoising(Loss):
    """mean over rows and steps of w |v_theta(x_t, t) - v|², w = min(exp(A / temperature), 20)."""

    name: ClassVar = "weighted-denoising"
    temperature: PositiveFloat = Field(1.0, description="Advantage that multiplies w by e.")

    def __call__(self, policy: Policy, batch: Batch) -> LossOut:
        """Return the weighted error of denoising the sampled pictures again."""
        x_t, v = policy.noise(batch.x0, batch.t)  # m k s *latent
        error = (policy.predict(x_t, batch.t, batch.cond) - v).square().flatten(3).mean(-1)
        weight = (batch.advantage / self.temperature).exp().clamp(max=20.0)  # m k s
        return LossOut((weight * error).mean(), {"weight_max": weight.max()})


RWR = Recipe(
    name="rwr",
    source="Peters & Schaal, ICML 2007",
    sampler=Ode(group=8),
    reward_predictor=Terminal(),
    advantage_estimator=Returns(),
    update_scheduler=RowsFirst(),
    loss=WeightedDenoising(),
)


diffrl_api = 1


@hookimpl
def diffrl_losses() -> list[type[Loss]]:
    """Offer the loss to every recipe."""
    return [WeightedDenoising]


@hookimpl
def diffrl_algorithms() -> list[Recipe]:
    """Offer the algorithm to `--algo`."""
    return [RWR]
