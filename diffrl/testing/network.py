"""The toy world's network: exact before training, whatever it is asked to predict."""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from torch import nn

from diffrl.tensors import Float, Generator, Tensor

Prediction = Literal["epsilon", "v_prediction", "flow"]
SPREAD = 0.5  # standard deviation of the data around its prompt's centre


class ToyNet(nn.Module):
    """The network: the exact answer for the toy data, plus a perceptron that starts at zero."""

    def __init__(self, prediction: Prediction, rng: Generator, dtype: torch.dtype) -> None:
        super().__init__()
        self.prediction: Prediction = prediction
        weight = torch.randn(32, 20, generator=rng, dtype=dtype) / 20**0.5
        self.inner = nn.Parameter(weight)
        self.outer = nn.Parameter(torch.zeros(8, 33, dtype=dtype))

    def forward(
        self,
        x: Float[Tensor, "*rows d"],
        t: Float[Tensor, "*rows 1"],
        cond: Float[Tensor, "*rows d"],
    ) -> Float[Tensor, "*rows d"]:
        """Return the output at flat latents `x` and training timesteps `t`."""
        alpha, sigma = (v.to(x) for v in scales(self.prediction, t))
        gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
        clean = cond + gain * (x - alpha * cond)
        exact = output(self.prediction, clean, (x - alpha * clean) / sigma, alpha, sigma)
        angle = torch.pi * (t / 1000).to(x)
        waves = [angle.sin(), angle.cos(), (2 * angle).sin(), (2 * angle).cos()]
        hidden = torch.tanh(torch.cat([x, cond, *waves], -1) @ self.inner.T)
        return exact + hidden @ self.outer[:, 1:].T + self.outer[:, 0]


def scales(prediction: Prediction, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma of x_t = alpha x0 + sigma n, at training timesteps in [0, 1000]."""
    if prediction == "flow":
        return 1 - t / 1000, t / 1000
    a = alphas_cumprod()[t.round().long()]
    return a.sqrt(), (1 - a).sqrt()


def output(
    prediction: Prediction, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor
) -> Tensor:
    """Return what a network of this kind should output, given the clean state and the noise."""
    if prediction == "epsilon":
        return noise
    return noise - x0 if prediction == "flow" else alpha * noise - sigma * x0


@cache
def alphas_cumprod() -> Float[Tensor, "train"]:
    """Return Stable Diffusion's table: `scaled_linear` betas from 0.00085 to 0.012."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return (1 - betas).cumprod(0)
