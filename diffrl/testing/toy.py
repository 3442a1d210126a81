"""A toy world: a diffusion model of 2x2x2 latents whose right answers are known.

The data of a prompt is a Gaussian around a centre that its text determines, so the initial network
is exact without any fitting: the posterior mean in closed form, plus a small perceptron that starts
at zero and is what training changes. `ToyJudge` wants latents somewhere else.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from zlib import crc32

import torch
from torch import nn

from diffrl.errors import FitError
from diffrl.kernels import Ddim, Lcm, log_density, trailing
from diffrl.stages import Policy, Weights
from diffrl.stepwise import one_step_at_a_time
from diffrl.streams import normal
from diffrl.tensors import Float, Generator, Int, Tensor
from diffrl.testing.network import SPREAD, Prediction, ToyNet, alphas_cumprod, output, scales
from diffrl.types import Batch, Kernel, Path, Prompts, Rollout, at_step

LATENT = (2, 2, 2)
TEXT = ("fox", "whale", "cow", "horse")


def centre(text: str) -> Float[Tensor, "d"]:
    """Return where the toy data of a prompt lies."""
    return _draw("centre", text)


def target(text: str) -> Float[Tensor, "d"]:
    """Return where `ToyJudge` wants it: 0.8 rms away from the centre."""
    away = _draw("away", text)
    return centre(text) + 0.8 * away / away.square().mean().sqrt()


def _draw(salt: str, text: str) -> Tensor:
    rng = torch.Generator().manual_seed(crc32(f"{salt}: {text}".encode()))
    return torch.randn(8, generator=rng, dtype=torch.float64)


class ToyPolicy(Policy):
    """Implements all of `diffrl.stages.Policy` on the CPU, in microseconds.

    Args:
        seed: of the network's first layer and of the noise that `noise` draws.
        prediction: what the network outputs; `flow` is a rectified flow with t = 1000 sigma.
        dtype: of weights and latents.

    Attributes:
        nets: the three sets of weights. `old` and `base` are frozen copies.
    """

    def __init__(
        self,
        seed: int = 0,
        prediction: Prediction = "v_prediction",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.prediction: Prediction = prediction
        self.dtype = dtype
        self.rng = torch.Generator().manual_seed(seed)
        live = ToyNet(prediction, self.rng, dtype)
        self.nets: dict[Weights, ToyNet] = {"live": live}
        for name in ("old", "base"):
            self.nets[name] = copy.deepcopy(live).requires_grad_(False)

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained."""
        return list(self.nets["live"].parameters())

    def prompts(self, text: Sequence[str], group: int = 1) -> Prompts:
        """Return every text `group` times, side by side, with its condition."""
        every = tuple(one for one in text for _ in range(group))
        number = torch.arange(len(text)).repeat_interleave(group)
        known = {one: centre(one) for one in dict.fromkeys(every)}
        return Prompts(every, number, torch.stack([known[one] for one in every]).to(self.dtype))

    def normal(self, shape: Sequence[int], rng: Generator) -> Float[Tensor, "..."]:
        """Return standard normal noise of shape `(*shape, 2, 2, 2)`."""
        return normal((*shape, *LATENT), rng, self.dtype)

    def encode(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b *latent"]:
        """Return two channels of the pictures, shrunk to 2 x 2, around 0."""
        small = torch.nn.functional.adaptive_avg_pool2d(pictures[:, :2], (2, 2))
        return (2 * small - 1).to(self.dtype)

    def timesteps(self, steps: int) -> Float[Tensor, "T"]:
        """Return the times of a number of steps, noisiest first."""
        if self.prediction == "flow":
            return torch.linspace(1000, 1000 / steps, steps)
        return torch.tensor(trailing(steps), dtype=torch.float32)

    def ddim(self, steps: int, eta: float) -> Ddim:
        """Return the DDIM kernel of the toy's noise schedule.

        Raises:
            FitError: the network is a flow.
        """
        if self.prediction == "flow":
            raise FitError(["a flow has no DDIM step; take a flow sampler"])
        return Ddim(alphas_cumprod(), steps, eta, self.prediction)

    def lcm(self, steps: int) -> Lcm:
        """Return the kernel of a latent consistency model on the toy's noise schedule.

        Raises:
            FitError: the network is a flow.
        """
        if self.prediction == "flow":
            raise FitError(["a flow has no LCM step; take a flow sampler"])
        return Lcm(alphas_cumprod(), steps, self.prediction)

    def predict(
        self,
        x: Float[Tensor, "*rows c h w"],
        t: Float[Tensor, "*rows"],
        cond: Float[Tensor, "..."],
        weights: Weights = "live",
    ) -> Float[Tensor, "*rows c h w"]:
        """Return the network's output; `cond` broadcasts over trailing axes of `rows`."""
        rows = t.shape
        between = [1] * (len(rows) + 1 - cond.ndim)
        cond = cond.reshape(*cond.shape[:-1], *between, cond.shape[-1]).expand(*rows, -1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and weights == "live"):
            return self.nets[weights](x.flatten(-3), t[..., None], cond).reshape(x.shape)

    def log_prob(self, batch: Batch, weights: Weights = "live") -> Float[Tensor, "m k s"]:
        """Return the log-density of each stored transition, in nats averaged over the latent."""
        steps = batch.t.shape[2]
        if steps == 1 or weights != "live" or not torch.is_grad_enabled():
            return self._log_prob(batch, weights)
        return one_step_at_a_time(
            lambda j: self._log_prob(at_step(batch, j), weights), steps, batch.t.device
        )

    def _log_prob(self, batch: Batch, weights: Weights) -> Float[Tensor, "m k s"]:
        kernel, x, x_next = _path(batch)
        out = self.predict(x, batch.t, batch.cond, weights)
        return log_density(x_next, kernel.transition(out, batch.t, x))

    def noise(
        self, x0: Float[Tensor, "m k *latent"], t: Float[Tensor, "m k s"]
    ) -> tuple[Float[Tensor, "m k s *latent"], Float[Tensor, "m k s *latent"]]:
        """Return `x0` noised to `t`, and the network output that would undo it.

        The rows of a tuple share their noise, so that a pair differs in nothing but `x0`.
        """
        m, k, s = t.shape
        drawn = self.normal((m, 1, s), self.rng).expand(m, k, s, *LATENT)
        alpha, sigma = (v[..., None, None, None].to(x0) for v in scales(self.prediction, t))
        clean = x0[:, :, None].expand_as(drawn)
        wanted = output(self.prediction, clean, drawn, alpha, sigma)
        return alpha * clean + sigma * drawn, wanted

    def replay(self, batch: Batch) -> Float[Tensor, "m k *latent"]:
        """Return the stored `x0`, carrying gradient through the batch's final s steps."""
        kernel, stored, stored_next = _path(batch)
        x = stored[:, :, 0]
        for j in range(stored.shape[2]):
            t = batch.t[:, :, j]
            step = kernel.transition(self.predict(x, t, batch.cond), t, x)
            if j == stored.shape[2] - 1 and getattr(kernel, "noisy_end", False):
                return step.x0_hat + (batch.x0 - step.x0_hat).detach()
            x = step.mean + (stored_next[:, :, j] - step.mean).detach()
        return x

    def follow(self, decay: float) -> None:
        """Move `old` to decay * old + (1 - decay) * live."""
        with torch.no_grad():
            for old, live in zip(self.nets["old"].parameters(), self.parameters(), strict=True):
                old.lerp_(live, 1 - decay)


def _path(batch: Batch) -> tuple[Kernel, Tensor, Tensor]:
    if batch.kernel is None or batch.x is None or batch.x_next is None:
        raise FitError(["this needs a path, and the sampler kept none"])
    return batch.kernel, batch.x, batch.x_next


class ToyJudge:
    """Scores a latent by minus its mean squared distance to `target(prompt)`."""

    def __call__(
        self, x0: Float[Tensor, "b *latent"], prompts: Prompts, step: Int[Tensor, "b"]
    ) -> Float[Tensor, "b"]:
        """Return a score per row."""
        known = {text: target(text) for text in dict.fromkeys(prompts.text)}
        wanted = torch.stack([known[text] for text in prompts.text]).to(x0)
        return -(x0.flatten(1) - wanted).square().mean(1)

    def each(
        self, x0: Float[Tensor, "b *latent"], prompts: Prompts, step: Int[Tensor, "b"]
    ) -> Float[Tensor, "b r"]:
        """Return the score as the only column."""
        return self(x0, prompts, step)[:, None]

    def grad(
        self, x0: Float[Tensor, "b *latent"], prompts: Prompts, step: Int[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b *latent"]]:
        """Return scores and their gradients."""
        with torch.enable_grad():
            x = x0.detach().requires_grad_()
            score = self(x, prompts, step)
            (grad,) = torch.autograd.grad(score.sum(), x)
        return score.detach(), grad


@torch.no_grad()
def walk(
    policy: Policy,
    kernel: Kernel,
    prompts: Prompts,
    times: Float[Tensor, "T"],
    rng: Generator,
    weights: Weights = "live",
) -> Rollout:
    """Return a rollout that follows any kernel, keeping all that later stages may ask for.

    A sampler for a new kernel, where nothing faster is needed.
    """
    x = [policy.normal((len(prompts),), rng)]
    x0_hat, log_prob = [], []
    for time in times:
        t = time.expand(len(prompts))
        step = kernel.transition(policy.predict(x[-1], t, prompts.cond, weights), t, x[-1])
        x.append(step.mean + step.std * policy.normal((len(prompts),), rng))
        x0_hat.append(step.x0_hat)
        log_prob.append(log_density(x[-1], step))
    path = Path(kernel, torch.stack(log_prob, 1), torch.stack(x, 1), torch.stack(x0_hat, 1))
    return Rollout(prompts, times, x[-1], path)


__all__ = [
    "LATENT",
    "SPREAD",
    "TEXT",
    "Prediction",
    "ToyJudge",
    "ToyPolicy",
    "centre",
    "target",
    "walk",
]
