"""Samplers that walk a kernel on the policy's own noise schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, PositiveInt

from diffrl.hookspecs import hookimpl
from diffrl.stages import Policy, Sampler
from diffrl.tensors import Float, Generator, Tensor
from diffrl.types import Kernel, Path, Prompts, Rollout


class Ddim(Sampler):
    """Denoises with DDIM steps that draw noise, and keeps both states and the log-density of each.

        x_{k+1} = mean_k + sigma_k z,  z ~ N(0, 1);  the kernel is `diffrl.kernels.Ddim`

    All rows of all groups are denoised in one batch. Every step draws, the last one too.

    Source: Song et al., DDIM, arXiv:2010.02502, eq. 12 and 16; dual states as in SDPO,
    arXiv:2411.11727, Fig. 2, ZiyiZhang27/sdpo `pipeline_with_logprob.py`.
    Differs: the published code samples the rows of a pair one after the other and stores latents in
    half precision; here they are one batch, and latents stay in fp32, because rounding them moves
    the log-ratio of unchanged weights by as much as the clip range.
    """

    name: ClassVar[str] = "ddim"
    steps: int = Field(default=50, ge=1, le=1000, description="Denoising steps, T.")
    eta: float = Field(
        default=1.0, ge=0, le=1, description="Strength of the noise; 1 is ancestral."
    )
    group: PositiveInt = Field(default=1, description="Rows that each drawn prompt gets.")
    share_noise: bool = Field(
        default=False, description="Rows of a group start from the same noise."
    )

    @property
    def gives(self) -> frozenset[str]:
        """What later stages can read because of this one."""
        return frozenset({"x0", "path", "x0_hat", "log_prob"})

    def density_problems(self) -> list[str]:
        """Return why its steps have no density, one line each; asked where the loss reads one."""
        if self.eta > 0:
            return []
        return ["sampler.eta is 0, so its steps have no density, which the loss reads; raise it"]

    def __call__(self, policy: Policy, text: Sequence[str], rng: Generator) -> Rollout:
        """Return `len(text) * group` rows; rows of a group are neighbours."""
        import torch

        kernel, times = policy.ddim(self.steps, self.eta), policy.timesteps(self.steps)
        with torch.no_grad():
            prompts, first = _start(policy, text, self.group, self.share_noise, rng)
            path = _walk(policy, kernel, prompts, first, times, rng)
        return Rollout(prompts, times, path.x[:, -1], path)


class Lcm(Sampler):
    """Samples a latent consistency model in several steps, and keeps the log-density of each.

        x_{k+1} = sqrt(a') f(x_k) + sqrt(1 - a') z,  z ~ N(0, 1);  kernel: `diffrl.kernels.Lcm`

    The picture is f of the last step: it is the final latent. The last noise is drawn for its
    density alone, and ends the path.

    Source: Oertell et al., RLCM, arXiv:2404.03673; Owen-Oertell/rlcm.
    Differs: one step is refused. It draws no noise, so the policy is deterministic and its
    published log-prob, the density around another point, estimates no policy gradient.
    """

    name: ClassVar[str] = "lcm"
    steps: int = Field(default=8, ge=1, le=50, description="Denoising steps, T.")
    group: PositiveInt = Field(default=1, description="Rows that each drawn prompt gets.")
    share_noise: bool = Field(
        default=False, description="Rows of a group start from the same noise."
    )

    @property
    def gives(self) -> frozenset[str]:
        """What later stages can read because of this one."""
        return frozenset({"x0", "path", "x0_hat", "log_prob"})

    def problems(self) -> list[str]:
        """Return what pydantic cannot say field by field, one line each."""
        if self.steps > 1:
            return []
        return [
            "sampler 'lcm' with sampler.steps=1 draws no noise, so its steps have no density; "
            "take 2 steps or more"
        ]

    def __call__(self, policy: Policy, text: Sequence[str], rng: Generator) -> Rollout:
        """Return `len(text) * group` rows; rows of a group are neighbours."""
        import torch

        kernel = policy.lcm(self.steps)
        with torch.no_grad():
            prompts, first = _start(policy, text, self.group, self.share_noise, rng)
            times = torch.tensor(kernel.times, dtype=torch.float32, device=first.device)
            path = _walk(policy, kernel, prompts, first, times, rng)
        assert path.x0_hat is not None
        return Rollout(prompts, times, path.x0_hat[:, -1], path)


class Ode(Sampler):
    """Denoises with deterministic DDIM steps and keeps only the final latent.

        x_{k+1} = sqrt(a') x0_hat + sqrt(1 - a') e

    Source: Song et al., DDIM, arXiv:2010.02502, eq. 12 with sigma = 0.
    """

    name: ClassVar[str] = "ode"
    steps: int = Field(default=50, ge=1, le=1000, description="Denoising steps, T.")
    group: PositiveInt = Field(default=1, description="Rows that each drawn prompt gets.")
    share_noise: bool = Field(
        default=False, description="Rows of a group start from the same noise."
    )

    @property
    def gives(self) -> frozenset[str]:
        """What later stages can read because of this one."""
        return frozenset({"x0"})

    def group_problems(self, group: int) -> list[str]:
        """Return what keeps it from working with groups of that many rows, one line each."""
        if group == 1 or not self.share_noise:
            return []
        return [
            "sampler 'ode' draws no noise on the way: with sampler.share_noise=true all rows of a "
            "group are one picture; set it to false"
        ]

    def __call__(self, policy: Policy, text: Sequence[str], rng: Generator) -> Rollout:
        """Return `len(text) * group` rows; rows of a group are neighbours."""
        import torch

        kernel, times = policy.ddim(self.steps, 0.0), policy.timesteps(self.steps)
        with torch.no_grad():
            prompts, x = _start(policy, text, self.group, self.share_noise, rng)
            for time in times:
                t = time.expand(len(prompts))
                x = kernel.transition(policy.predict(x, t, prompts.cond), t, x).mean
        return Rollout(prompts, times, x)


def _start(
    policy: Policy, text: Sequence[str], group: int, share_noise: bool, rng: Generator
) -> tuple[Prompts, Float[Tensor, "n *latent"]]:
    """Return the rows' prompts and their initial noise, at least in fp32."""
    import torch

    prompts = policy.prompts(text, group)
    if share_noise:
        noise = policy.normal((len(text),), rng).repeat_interleave(group, dim=0)
    else:
        noise = policy.normal((len(prompts),), rng)
    return prompts, noise.to(torch.promote_types(noise.dtype, torch.float32))


def _walk(
    policy: Policy,
    kernel: Kernel,
    prompts: Prompts,
    first: Float[Tensor, "n *latent"],
    times: Float[Tensor, "T"],
    rng: Generator,
) -> Path:
    """Return the path of drawn steps from `first`, with both states and the log-density of each."""
    import torch

    from diffrl.kernels import log_density

    x, x0_hat, log_prob, rows = [first], [], [], len(prompts)
    for time in times:
        t = time.expand(rows)
        step = kernel.transition(policy.predict(x[-1], t, prompts.cond), t, x[-1])
        x.append(step.mean + step.std * policy.normal((rows,), rng))
        x0_hat.append(step.x0_hat)
        log_prob.append(log_density(x[-1], step))
    return Path(kernel, torch.stack(log_prob, 1), torch.stack(x, 1), torch.stack(x0_hat, 1))


@hookimpl
def diffrl_samplers() -> list[type[Sampler]]:
    """Return the core's samplers."""
    return [Ddim, Lcm, Ode]
