"""Reward predictors that any algorithm can use."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from diffrl.hookspecs import hookimpl
from diffrl.stages import Judge, RewardPredictor
from diffrl.types import Rewards, Rollout, last_step


class Terminal(RewardPredictor):
    """One query per row; its score fills the last column, all others are zero.

        r_k = 0 for k < T - 1,  r_{T-1} = R(picture)

    Source: DDPO, arXiv:2305.13301, eq. 4; kvablack/ddpo-pytorch scripts/train.py decodes the final
    latent. `decode="predicted"` takes the clean state of the last step instead, as SDPO does.
    """

    name: ClassVar[str] = "terminal"
    last_alone: ClassVar[bool] = True
    decode: Literal["final", "predicted"] = Field(
        default="final",
        description="final: the final latent; predicted: the last predicted clean latent.",
    )

    @property
    def needs(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What earlier stages must give."""
        return frozenset({"x0"} if self.decode == "final" else {"x0_hat"})

    def queries(self, steps: int) -> int:
        """Return how many pictures per row the judge scores."""
        return 1

    def __call__(self, rollout: Rollout, judge: Judge) -> Rewards:
        """Return rewards of shape `n T`."""
        import torch

        x0, steps = rollout.x0, len(rollout.times)
        if self.decode == "predicted":
            assert rollout.path is not None and rollout.path.x0_hat is not None
            x0 = rollout.path.x0_hat[:, -1]
        step = torch.full((len(rollout),), steps - 1)
        each = judge.each(x0, rollout.prompts, step)
        return Rewards(last_step(each.sum(1), steps), each=each)


@hookimpl
def diffrl_reward_predictors() -> list[type[RewardPredictor]]:
    """Return the core's reward predictors."""
    return [Terminal]
