"""A world in closed form: one shift of the predicted clean state is all there is to learn.

The toy network's clean state is linear in the noisy one, so with a shift s every DDIM step is

    x_{k+1} = P_k x_k + Q_k + S_k s + sigma_k z

and the final state is Gaussian around `m + c s`, with c the sum over steps of
c_k = S_k P_{k+1} ... P_{T-1}. The judge wants w, so the expected score is -|m + c s - w|² / 8 minus
a variance that s has no say in: its gradient and its optimum are known.
"""

from __future__ import annotations

import torch
from torch import nn

from diffrl.tensors import Float, Tensor
from diffrl.testing.network import SPREAD, alphas_cumprod, output, scales
from diffrl.testing.toy import ToyPolicy, centre, target

SIZE = 8


class ShiftNet(nn.Module):
    """The toy data's exact denoiser, with a learned shift of the clean state it predicts."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(SIZE, dtype=torch.float64))

    def forward(
        self,
        x: Float[Tensor, "*rows d"],
        t: Float[Tensor, "*rows 1"],
        cond: Float[Tensor, "*rows d"],
    ) -> Float[Tensor, "*rows d"]:
        """Return v at flat latents `x` and training timesteps `t`."""
        alpha, sigma = (v.to(x) for v in scales("v_prediction", t))
        gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
        clean = cond + gain * (x - alpha * cond) + self.shift
        return output("v_prediction", clean, (x - alpha * clean) / sigma, alpha, sigma)


class LinearPolicy(ToyPolicy):
    """A policy of eight parameters, in float64."""

    def __init__(self) -> None:
        super().__init__(dtype=torch.float64)
        self.nets = {"live": ShiftNet(), "old": ShiftNet(), "base": ShiftNet()}
        for name in ("old", "base"):
            self.nets[name].requires_grad_(False)

    @property
    def shift(self) -> nn.Parameter:
        """What is learned."""
        return self.nets["live"].shift


class World:
    """The chain of one prompt in numbers.

    Args:
        steps: T.
        text: the prompt.

    Attributes:
        effect: c_k, by how much a unit of shift at step k moves the final state.
        push: S_k, by how much it moves the next one.
        sigma: standard deviation of each step's noise.
        lacking: w - m, how far the unshifted mean is from what the judge wants.
    """

    def __init__(self, steps: int, text: str = "fox") -> None:
        policy = LinearPolicy()
        kernel, times, table = policy.ddim(steps, 1.0), policy.timesteps(steps), alphas_cumprod()
        before = (times.long() - 1000 // steps).clamp(min=0)
        a, b = table[times.long()].double(), table[before].double()
        self.sigma = ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
        along = (1 - b - self.sigma**2).sqrt() / (1 - a).sqrt()
        self.push = b.sqrt() - along * a.sqrt()
        gain = a.sqrt() * SPREAD**2 / (a * SPREAD**2 + 1 - a)
        self.carry = gain * self.push + along
        later = [self.carry[k + 1 :].prod() for k in range(steps)]
        self.effect = self.push * torch.stack(later)
        self.noise = (self.sigma * torch.stack(later)).square().sum().sqrt()
        x = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
        cond = policy.prompts([text]).cond
        for t in times:
            out = policy.predict(x, t.expand(1), cond, "base")
            x = kernel.transition(out, t.expand(1), x).mean
        self.lacking = (target(text) - x.flatten()).double()

    def gradient(
        self, shift: Float[Tensor, "8"], weights: Float[Tensor, "T"] | float = 1.0
    ) -> Float[Tensor, "8"]:
        """Return the sum over steps of weight_k times the exact gradient through step k."""
        missing = self.lacking - self.effect.sum() * shift
        return 2 * (weights * self.effect).sum() * missing / SIZE

    def gained(self, shift: Float[Tensor, "8"]) -> float:
        """Return the share of what can be gained in expected score: 1 at the optimum."""
        missing = self.lacking - self.effect.sum() * shift
        return 1 - float(missing.square().sum() / self.lacking.square().sum())


__all__ = ["SIZE", "LinearPolicy", "World", "centre"]
