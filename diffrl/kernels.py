"""Transition kernels: one denoising step as a Gaussian, shared by sampling and training.

Source: Song et al., DDIM, arXiv:2010.02502, eq. 12 and 16; the log-density as in
kvablack/ddpo-pytorch `ddim_with_logprob.py` and ZiyiZhang27/sdpo, which agree bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from diffrl.tensors import Float, Tensor
from diffrl.types import Transition

Prediction = Literal["epsilon", "sample", "v_prediction"]


@dataclass(frozen=True)
class Ddim:
    """The DDIM step from `t` to `t - 1000 // steps`, with noise of strength eta.

        a = bar-alpha[t],  a' = bar-alpha[max(t - 1000 // steps, 0)]
        sigma = eta sqrt((1 - a') / (1 - a) (1 - a / a'))
        mean  = sqrt(a') x0_hat + sqrt(1 - a' - sigma²) e

    Args:
        alphas_cumprod: the schedule's table, float32, one entry per training timestep.
        steps: T. The spacing is `len(alphas_cumprod) // steps` whatever the timesteps are.
        eta: 0 deterministic (no density), 1 ancestral.
        prediction: what the network's output means.
        clip: bound on |x0_hat|, or None.
        rederive: whether `e` is derived again from the clipped x0_hat.

    The last step lands on bar-alpha[0], not on 1, so it is noisy too (sigma about 0.029).
    """

    alphas_cumprod: Float[Tensor, "train"]
    steps: int
    eta: float = 1.0
    prediction: Prediction = "epsilon"
    clip: float | None = None
    rederive: bool = False

    def transition(
        self, output: Float[Tensor, "*r"], t: Tensor, x: Float[Tensor, "*r"]
    ) -> Transition:
        """Return the Gaussian of the next state; `t` has as many axes as `x` has leading rows."""
        table = self.alphas_cumprod.to(x.device)
        t = torch.as_tensor(t, device=x.device).long()
        before = (t - len(table) // self.steps).clamp(0, len(table) - 1)
        a, a_next = _like(table[t], x), _like(table[before], x)
        x0_hat, e = _clean(self.prediction, output, x, a)
        if self.clip is not None:
            x0_hat = x0_hat.clamp(-self.clip, self.clip)
            if self.rederive:
                e = (x - a.sqrt() * x0_hat) / (1 - a).sqrt()
        std = self.eta * ((1 - a_next) / (1 - a) * (1 - a / a_next)).sqrt()
        rest = (1 - a_next - std**2).clamp(min=0)  # rounding may leave less than nothing
        mean = a_next.sqrt() * x0_hat + rest.sqrt() * e
        return Transition(mean, std, x0_hat)


@dataclass(frozen=True)
class Lcm:
    """The multistep step of a latent consistency model from `t` to the next of its timesteps.

        f = c_out x0_hat + c_skip x,  c_skip = s² / (u² + s²),  c_out = u / sqrt(u² + s²)
        mean = sqrt(a') f,  sigma = sqrt(1 - a'),  u = 10 t,  s = 0.5

    with a' = bar-alpha of the next timestep, and of `t` itself at the last: f is noised again to
    the level it came from. The predicted clean state is f. With one step f itself would be the
    sample, without noise, so that it has no density.

    Args:
        alphas_cumprod: the schedule's table, float32, one entry per training timestep.
        steps: T.
        prediction: what the network's output means.
        original: timesteps that the model was distilled on, evenly spaced.

    Source: Luo et al., LCM, arXiv:2310.04378; Owen-Oertell/rlcm, its scheduler with log-prob.
    """

    alphas_cumprod: Float[Tensor, "train"]
    steps: int
    prediction: Prediction = "epsilon"
    original: int = 50
    noisy_end: ClassVar[bool] = True

    @property
    def times(self) -> list[int]:
        """The timesteps, noisiest first: every stride-th of the original ones, from the last."""
        return list(self._evenly)

    @property
    def _evenly(self) -> range:
        spacing, stride = len(self.alphas_cumprod) // self.original, self.original // self.steps
        first, apart = spacing * self.original - 1, spacing * stride
        return range(first, first - apart * self.steps, -apart)

    def transition(
        self, output: Float[Tensor, "*r"], t: Tensor, x: Float[Tensor, "*r"]
    ) -> Transition:
        """Return the Gaussian of the next state; `t` has as many axes as `x` has leading rows."""
        table = self.alphas_cumprod.to(x.device)
        t = torch.as_tensor(t, device=x.device).long()
        known = self._evenly  # made where it is needed, since a copy would wait for a GPU's queue
        times = torch.arange(known.start, known.stop, known.step, device=x.device)
        at = (t[..., None] - times).abs().argmin(-1)
        after = times[(at + 1).clamp(max=self.steps - 1)]
        a, a_next = _like(table[t], x), _like(table[after], x)
        x0_hat, _ = _clean(self.prediction, output, x, a)
        scaled = 10.0 * t.float()  # float32 whatever x is, as published
        norm = scaled**2 + 0.25
        f = _like(scaled / norm.sqrt(), x) * x0_hat + _like(0.25 / norm, x) * x
        return Transition(a_next.sqrt() * f, (1 - a_next).sqrt(), f)


def _clean(prediction: Prediction, output: Tensor, x: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """Return the clean state and the noise that a network's output means."""
    if prediction == "epsilon":
        return (x - (1 - a).sqrt() * output) / a.sqrt(), output
    if prediction == "sample":
        return output, (x - a.sqrt() * output) / (1 - a).sqrt()
    return a.sqrt() * x - (1 - a).sqrt() * output, a.sqrt() * output + (1 - a).sqrt() * x


def log_density(
    x_next: Float[Tensor, "*rows c h w"], transition: Transition
) -> Float[Tensor, "*rows"]:
    """Return the Gaussian log-density of `x_next` in nats, averaged over channels and pixels.

    Gradient flows through the mean only. Where sigma is 0 there is no density and the result is
    not finite, as in the published code.
    """
    z = (x_next.detach() - transition.mean) / transition.std
    density = -(z**2) / 2 - transition.std.log() - 0.5 * math.log(2 * math.pi)
    return density.flatten(-3).mean(-1)


def embedded_scale(guidance: float, width: int) -> Float[Tensor, "1 width"]:
    """Return the sinusoidal embedding of a guidance scale, as LCMs are given it.

    Source: Luo et al., LCM, arXiv:2310.04378; diffusers `get_guidance_scale_embedding` of
    1000 (guidance - 1).
    """
    half = width // 2
    rate = torch.exp(torch.arange(half) * -(math.log(10000.0) / (half - 1)))
    angle = 1000.0 * (guidance - 1) * rate
    waves = torch.cat([angle.sin(), angle.cos()])
    return torch.nn.functional.pad(waves, (0, width - 2 * half))[None]


def _like(value: Tensor, x: Tensor) -> Tensor:
    """Return per-row values, at least in float32, with axes of size 1 up to the rank of `x`."""
    value = value.to(torch.promote_types(x.dtype, torch.float32))
    return value.reshape(*value.shape, *[1] * (x.ndim - value.ndim))


def trailing(steps: int, train_steps: int = 1000) -> list[int]:
    """Return `steps` timesteps spaced back from the last, as SD-Turbo uses them."""
    import numpy

    spaced = numpy.round(numpy.arange(train_steps, 0, -train_steps / steps)) - 1
    return [int(t) for t in spaced[:steps]]


def leading(steps: int, train_steps: int = 1000, offset: int = 0) -> list[int]:
    """Return `steps` timesteps at multiples of `train_steps // steps`, as SD 1.x uses them."""
    ratio = train_steps // steps
    return [k * ratio + offset for k in reversed(range(steps))]
