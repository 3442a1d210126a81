"""Flow-GRPO (arXiv:2505.05470): a flow made stochastic, group-relative PPO, KL to the base."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from diffrl.builtin.advantages import Returns
from diffrl.builtin.reward_predictors import Terminal
from diffrl.builtin.update_schedulers import RowsFirst
from diffrl.recipe import Recipe
from diffrl.stages import Loss, Policy, Sampler
from diffrl.tensors import Float, Generator, Tensor
from diffrl.testing.contracts import LossContract, SamplerContract
from diffrl.testing.toy import ToyPolicy, walk
from diffrl.types import Batch, LossOut, Rollout, Transition


@dataclass(frozen=True)
class FlowSde:
    """g = a sqrt(s / (1 - s)); mean = x (1 + g² dt / 2s) + v (1 + g² (1 - s) / 2s) dt."""

    sigmas: Float[Tensor, "T+1"]
    level: float

    def transition(self, output: Tensor, t: Tensor, x: Tensor) -> Transition:
        """Return the Gaussian of the next state."""
        at = (self.sigmas[:-1] - t[..., None] / 1000).abs().argmin(-1)
        s, s_next = (v[..., None, None, None] for v in (self.sigmas[at], self.sigmas[at + 1]))
        dt, below_one = s_next - s, torch.where(s == 1, self.sigmas[1], s)
        g2 = self.level**2 * s / (1 - below_one)
        mean = x * (1 + g2 / (2 * s) * dt) + output * (1 + g2 * (1 - s) / (2 * s)) * dt
        return Transition(mean, (g2 * -dt).sqrt(), x - s * output)


class FlowSdeSampler(Sampler):
    """Samples a rectified flow with noise in every step."""

    name: ClassVar[str] = "flow-sde"
    steps: PositiveInt = Field(5, description="Denoising steps.")
    group: PositiveInt = Field(8, description="Rows per prompt.")
    level: PositiveFloat = Field(0.7, description="Strength of the noise.")

    @property
    def gives(self) -> frozenset[str]:
        """A full path."""
        return frozenset({"x0", "path", "x0_hat", "log_prob"})

    def __call__(self, policy: Policy, text: Sequence[str], rng: Generator) -> Rollout:
        """Return `len(text) * group` rows."""
        times = policy.timesteps(self.steps)
        kernel = FlowSde(torch.cat([times / 1000, torch.zeros(1)]), self.level)
        return walk(policy, kernel, policy.prompts(text, self.group), times, rng)


class GroupRelative(Loss):
    """-mean min(A r, A clip(r)) + kl mean (mu - mu_base)² / 2 sigma²."""

    name: ClassVar[str] = "group-relative"
    needs: ClassVar[frozenset[str]] = frozenset({"log_prob", "base"})
    clip: PositiveFloat = Field(0.1, description="Half-width of the trusted ratios.")
    kl: NonNegativeFloat = Field(0.01, description="Weight of the divergence from the base.")

    def __call__(self, policy: Policy, batch: Batch) -> LossOut:
        """Return the loss of one batch."""
        ratio = (policy.log_prob(batch) - batch.log_prob).exp()
        gain = torch.minimum(
            batch.advantage * ratio,
            batch.advantage * ratio.clamp(1 - self.clip, 1 + self.clip),
        )
        divergence = self._divergence(policy, batch)
        return LossOut(self.kl * divergence - gain.mean(), {"kl": divergence.detach()})

    def _divergence(self, policy: Policy, batch: Batch) -> Tensor:
        assert batch.kernel is not None and batch.x is not None
        live, base = (
            batch.kernel.transition(
                policy.predict(batch.x, batch.t, batch.cond, which), batch.t, batch.x
            )
            for which in ("live", "base")
        )
        return ((live.mean - base.mean) / live.std).square().mean() / 2


FLOW_GRPO = Recipe(
    "tiny-flow-grpo",
    "arXiv:2505.05470",
    sampler=FlowSdeSampler(),
    reward_predictor=Terminal(),
    advantage_estimator=Returns(gamma=1.0, per="prompt"),
    update_scheduler=RowsFirst(rows_per_update=8, skip_last=1),
    loss=GroupRelative(),
)


class TestFlowSdeSampler(SamplerContract):
    @pytest.fixture
    def component(self):
        return FlowSdeSampler()

    @pytest.fixture
    def policy(self):
        return ToyPolicy(prediction="flow")


class TestGroupRelative(LossContract):
    @pytest.fixture
    def component(self):
        return GroupRelative()


def test_flow_grpo_raises_the_toy_score(gain):
    assert gain(FLOW_GRPO, epochs=30, learning_rate=5e-3, prediction="flow") > 0.3
