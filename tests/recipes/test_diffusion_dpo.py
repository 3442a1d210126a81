"""Diffusion-DPO (arXiv:2311.12908): preferences from data, no sampling at all."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import pytest
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch.nn.functional import logsigmoid

from diffrl.builtin.samplers import Ddim
from diffrl.recipe import Recipe
from diffrl.stages import (
    AdvantageEstimator,
    Judge,
    Loss,
    Policy,
    RewardPredictor,
    Sampler,
    UpdateScheduler,
)
from diffrl.tensors import Generator
from diffrl.testing.contracts import (
    LossContract,
    RewardPredictorContract,
    SamplerContract,
    UpdateSchedulerContract,
)
from diffrl.testing.toy import ToyJudge
from diffrl.types import (
    Advantages,
    Batch,
    LossOut,
    Memory,
    Minibatch,
    Prompts,
    Rewards,
    Rollout,
    last_step,
)


class PreferenceData(Sampler):
    """Reads pairs of clean latents of which one is preferred: +1, the other -1."""

    name: ClassVar[str] = "preference-data"
    steps: PositiveInt = Field(1000, description="Times at which a row may be noised.")
    group: PositiveInt = Field(2, le=2, ge=2, description="A pair.")
    spread: PositiveFloat = Field(0.5, description="Of the data around its prompt's centre.")

    @property
    def gives(self) -> frozenset[str]:
        """Clean latents and labels."""
        return frozenset({"x0", "labels"})

    def __call__(self, policy: Policy, text: Sequence[str], rng: Generator) -> Rollout:
        """Return `len(text) * 2` rows of data."""
        prompts, times = policy.prompts(text, self.group), torch.linspace(999, 0, self.steps)
        noise = policy.normal((len(prompts),), rng)
        x0 = prompts.cond.reshape(noise.shape) + self.spread * noise
        score = ToyJudge()(x0, prompts, torch.zeros(len(x0), dtype=torch.long))
        labels = score.reshape(-1, 2).diff(dim=1).sign() * torch.tensor([-1.0, 1.0])
        return Rollout(prompts, times, x0, labels=labels.flatten())


class Labels(RewardPredictor):
    """What the data says."""

    name: ClassVar[str] = "labels"
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    def __call__(self, rollout: Rollout, judge: Judge) -> Rewards:
        """Return labels as terminal rewards."""
        assert rollout.labels is not None
        return Rewards(last_step(rollout.labels, len(rollout.times)))

    def queries(self, steps: int) -> int:
        """None: nobody is asked."""
        return 0


class AsIs(AdvantageEstimator):
    """The rewards themselves."""

    name: ClassVar[str] = "as-is"

    def __call__(
        self, rewards: Rewards, prompts: Prompts, memory: Memory
    ) -> tuple[Advantages, Memory]:
        """Return the rewards."""
        return Advantages(rewards.value, rewards.grad), memory


class OneRandomStep(UpdateScheduler):
    """Each pair once, at one random step, in one minibatch."""

    name: ClassVar[str] = "one-random-step"
    arity: ClassVar[int] = 2

    @property
    def commits_once(self) -> bool:
        """Always."""
        return True

    def __call__(
        self, prompts: Prompts, advantages: Advantages, rng: Generator
    ) -> Iterator[Minibatch]:
        """Yield one minibatch."""
        rows = torch.arange(len(prompts)).reshape(-1, 2)
        steps = torch.randint(advantages.value.shape[1], (len(rows), 1), generator=rng)
        yield Minibatch(rows, steps)

    def trained(self, steps: int) -> int:
        """One."""
        return 1


class DenoisingPreference(Loss):
    """-mean log sigmoid(beta sum_m p_m (base error - live error)), p = ±1 from the labels."""

    name: ClassVar[str] = "denoising-preference"
    needs: ClassVar[frozenset[str]] = frozenset({"x0", "labels", "base"})
    arity: ClassVar[int] = 2
    beta: PositiveFloat = Field(20.0, description="Sharpness of the preference.")

    def __call__(self, policy: Policy, batch: Batch) -> LossOut:
        """Return the loss of one batch."""
        assert batch.labels is not None
        xt, wanted = policy.noise(batch.x0, batch.t)
        live, base = (
            (policy.predict(xt, batch.t, batch.cond, which) - wanted).square().flatten(3).mean(-1)
            for which in ("live", "base")
        )
        margin = (batch.labels[:, :, None] * (base - live)).sum(1)  # m s
        return LossOut(-logsigmoid(self.beta * margin).mean())


DIFFUSION_DPO = Recipe(
    "tiny-diffusion-dpo",
    "arXiv:2311.12908",
    sampler=PreferenceData(),
    reward_predictor=Labels(),
    advantage_estimator=AsIs(),
    update_scheduler=OneRandomStep(),
    loss=DenoisingPreference(),
)


class TestPreferenceData(SamplerContract):
    @pytest.fixture
    def component(self):
        return PreferenceData()


class TestLabels(RewardPredictorContract):
    @pytest.fixture
    def component(self):
        return Labels()


class TestOneRandomStep(UpdateSchedulerContract):
    group = 2

    @pytest.fixture
    def component(self):
        return OneRandomStep()


class TestDenoisingPreference(LossContract):
    @pytest.fixture
    def component(self):
        return DenoisingPreference()


def test_diffusion_dpo_raises_the_toy_score(gain):
    draw = Ddim(steps=5, group=2)
    assert gain(DIFFUSION_DPO, epochs=150, learning_rate=5e-3, draw=draw) > 0.2
