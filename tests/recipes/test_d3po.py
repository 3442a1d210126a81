"""D3PO (arXiv:2311.13231): the preferred row of a pair, each step at a time, against the base."""

from typing import ClassVar

import pytest
from pydantic import Field, PositiveFloat
from torch.nn.functional import logsigmoid

from diffrl.builtin.advantages import Returns
from diffrl.builtin.reward_predictors import Terminal
from diffrl.builtin.samplers import Ddim
from diffrl.builtin.update_schedulers import Pairs
from diffrl.recipe import Recipe
from diffrl.stages import Loss, Policy
from diffrl.testing.contracts import LossContract
from diffrl.types import Batch, LossOut


class StepPreference(Loss):
    """-mean log sigmoid(beta sum_m p_m clip(log(pi / base))), p = ±1 for the better and worse."""

    name: ClassVar[str] = "step-preference"
    needs: ClassVar[frozenset[str]] = frozenset({"path", "base"})
    arity: ClassVar[int] = 2
    beta: PositiveFloat = Field(1.0, description="Sharpness of the preference.")
    clip: PositiveFloat = Field(0.3, description="Nats from the base beyond which nothing pulls.")

    def __call__(self, policy: Policy, batch: Batch) -> LossOut:
        """Return the loss of one batch."""
        preference = (batch.advantage - batch.advantage.flip(1)).sign()  # m k s
        log_ratio = policy.log_prob(batch) - policy.log_prob(batch, "base")
        pull = (preference * log_ratio.clamp(-self.clip, self.clip)).sum(1)  # m s
        return LossOut(-logsigmoid(self.beta * pull).mean())


D3PO = Recipe(
    "tiny-d3po",
    "arXiv:2311.13231",
    sampler=Ddim(steps=5, group=8, share_noise=True),
    reward_predictor=Terminal(),
    advantage_estimator=Returns(gamma=1.0, per="none"),
    update_scheduler=Pairs(per_update=8, skip_last=1),
    loss=StepPreference(),
)


class TestStepPreference(LossContract):
    @pytest.fixture
    def component(self):
        return StepPreference()


def test_d3po_raises_the_toy_score(gain):
    assert gain(D3PO, epochs=30, learning_rate=5e-3) > 0.2
