"""DiffusionNFT (arXiv:2509.16117): contrast good and bad on the forward process, no path at all."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import pytest
from pydantic import Field, PositiveFloat, PositiveInt

from diffrl.builtin.advantages import Returns
from diffrl.builtin.reward_predictors import Terminal
from diffrl.builtin.update_schedulers import RowsFirst
from diffrl.recipe import Recipe
from diffrl.stages import Loss, Policy, Sampler, UpdateScheduler
from diffrl.tensors import Generator
from diffrl.testing.contracts import LossContract, SamplerContract, UpdateSchedulerContract
from diffrl.testing.toy import walk
from diffrl.types import Advantages, Batch, LossOut, Minibatch, Prompts, Rollout


class OldOde(Sampler):
    """Samples the old weights without noise and keeps the final latent only."""

    name: ClassVar[str] = "old-ode"
    needs: ClassVar[frozenset[str]] = frozenset({"old"})
    steps: PositiveInt = Field(5, description="Denoising steps.")
    group: PositiveInt = Field(8, description="Rows per prompt.")

    @property
    def gives(self) -> frozenset[str]:
        """No path."""
        return frozenset({"x0"})

    def __call__(self, policy: Policy, text: Sequence[str], rng: Generator) -> Rollout:
        """Return `len(text) * group` rows."""
        prompts, times = policy.prompts(text, self.group), policy.timesteps(self.steps)
        walked = walk(policy, policy.ddim(self.steps, 0.0), prompts, times, rng, "old")
        return Rollout(prompts, times, walked.x0)


class Ramp(UpdateScheduler):
    """Rows first, with `old` following at a decay that grows with the epoch."""

    name: ClassVar[str] = "ramp"
    arity: ClassVar[int] = 1
    slope: PositiveFloat = Field(0.01, description="Decay gained per epoch, up to a half.")

    def __call__(
        self, prompts: Prompts, advantages: Advantages, rng: Generator
    ) -> Iterator[Minibatch]:
        """Yield the epoch's minibatches."""
        yield from RowsFirst()(prompts, advantages, rng)

    def behind(self, epoch: int) -> float:
        """Return min(slope epoch, 1/2)."""
        return min(self.slope * epoch, 0.5)


class ForwardContrast(Loss):
    """mean r |v+ - v|² + (1 - r) |v- - v|², v± = v_old ± beta (v_theta - v_old), r in [0, 1]."""

    name: ClassVar[str] = "forward-contrast"
    needs: ClassVar[frozenset[str]] = frozenset({"x0", "old"})
    beta: PositiveFloat = Field(1.0, description="How far v± lie from v_old.")
    clip: PositiveFloat = Field(2.0, description="Advantage at which r reaches 0 or 1.")

    def __call__(self, policy: Policy, batch: Batch) -> LossOut:
        """Return the loss of one batch."""
        good = (batch.advantage / (2 * self.clip) + 0.5).clamp(0, 1)  # m k s
        xt, v = policy.noise(batch.x0, batch.t)
        old = policy.predict(xt, batch.t, batch.cond, "old")
        move = self.beta * (policy.predict(xt, batch.t, batch.cond) - old)
        near, far = ((old + sign * move - v).square().flatten(3).mean(-1) for sign in (1, -1))
        return LossOut((good * near + (1 - good) * far).mean() / self.beta)


DIFFUSION_NFT = Recipe(
    "tiny-diffusion-nft",
    "arXiv:2509.16117",
    sampler=OldOde(),
    reward_predictor=Terminal(),
    advantage_estimator=Returns(gamma=1.0, per="prompt"),
    update_scheduler=Ramp(),
    loss=ForwardContrast(),
)


class TestOldOde(SamplerContract):
    @pytest.fixture
    def component(self):
        return OldOde()


class TestRamp(UpdateSchedulerContract):
    @pytest.fixture
    def component(self):
        return Ramp()


class TestForwardContrast(LossContract):
    @pytest.fixture
    def component(self):
        return ForwardContrast()


def test_diffusion_nft_raises_the_toy_score(gain):
    assert gain(DIFFUSION_NFT, epochs=30, learning_rate=1e-2) > 0.3
