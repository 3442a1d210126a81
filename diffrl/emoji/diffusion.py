"""The noise schedule as torch functions, and a stochastic DDIM sampler over it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Generator, Tensor

from diffrl.emoji.training import DEVICE

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(noisy latents, integer times [b]) -> predicted clean latents."""


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's betas, v-prediction, trailing spacing."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


ALPHA_BAR = new_scheduler().alphas_cumprod.to(DEVICE)
"""Cumulative product of 1 - beta, [1000]."""


def alpha_bar(times: Tensor) -> Tensor:
    """alpha-bar at integer times, [b, 1, 1, 1]; the schedule's first value for times below 0."""
    return ALPHA_BAR[times.clamp(min=0)][:, None, None, None]


def noised(x0: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """sqrt(a) x0 + sqrt(1 - a) noise."""
    a = alpha_bar(times)
    return a.sqrt() * x0 + (1 - a).sqrt() * noise


def clean_from_v(xt: Tensor, v: Tensor, times: Tensor) -> Tensor:
    """x0 = sqrt(a) x_t - sqrt(1 - a) v."""
    a = alpha_bar(times)
    return a.sqrt() * xt - (1 - a).sqrt() * v


def hop(xt: Tensor, x0: Tensor, times: Tensor, later: Tensor, eta: Tensor, z: Tensor) -> Tensor:
    """DDIM from `times` to `later` (equation 12 of arXiv:2010.02502), eta per row [b]."""
    a, b = alpha_bar(times), alpha_bar(later)
    noise = (xt - a.sqrt() * x0) / (1 - a).sqrt()
    sigma = eta[:, None, None, None] * ((1 - b) / (1 - a) * (1 - a / b)).clamp(min=0).sqrt()
    return b.sqrt() * x0 + (1 - b - sigma**2).clamp(min=0).sqrt() * noise + sigma * z


def trailing(steps: int) -> list[int]:
    """Times of a sampler with `steps` steps, as diffusers' trailing spacing has them."""
    return [round(1000 - i * 1000 / steps) - 1 for i in range(steps)]


@torch.no_grad()
def sample(denoise: Denoiser, noise: Tensor, steps: int, eta: float, rng: Generator) -> Tensor:
    """Latents [b, 4, 16, 16] after `steps` DDIM steps from `noise`."""
    x, times = noise, trailing(steps)
    etas = torch.full((len(x),), eta, device=x.device)
    for now, later in zip(times, [*times[1:], -1], strict=True):
        t = torch.full((len(x),), now, device=x.device)
        z = torch.randn(x.shape, generator=rng).to(x)
        x = hop(x, denoise(x, t), t, t - now + later, etas, z)
    return x


def denoiser(unet: UNet2DConditionModel, text: Tensor) -> Denoiser:
    """The clean latents that `unet` predicts under `text` [b, 16, 128]."""

    def denoise(xt: Tensor, times: Tensor) -> Tensor:
        v = unet(xt, times, encoder_hidden_states=text).sample.float()
        return clean_from_v(xt, v, times)

    return denoise
