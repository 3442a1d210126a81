"""Advantage estimators: returns, compared with what was usual."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from diffrl.hookspecs import hookimpl
from diffrl.stages import AdvantageEstimator
from diffrl.tensors import Float, Tensor
from diffrl.types import Advantages, Memory, Prompts, Rewards


class Returns(AdvantageEstimator):
    """Discounted return of each step, z-scored over the recent returns of the same prompt and step.

        G_k = r_k + gamma G_{k+1},  G_{T-1} = r_{T-1};   A = (G - mean) / (std + epsilon)

    `prompt-step` takes mean and population std over the newest `buffer` returns of the prompt at
    that step, the present ones included; while it has fewer than `min_count` of them, over this
    epoch's returns of that step, whatever their prompt. Trajectories of another number of steps
    have a memory of their own. `prompt` pools the steps of the same rows;
    with gamma = 1 and a terminal reward that is DDPO. `group` uses the returns of that step in the
    row's group, `step` this epoch's column, `batch` all of this epoch, `none` gives the returns
    themselves.

    Source: SDPO, arXiv:2411.11727; ZiyiZhang27/sdpo scripts/train_sdpo.py and stat_tracking.py;
    DDPO, kvablack/ddpo-pytorch stat_tracking.py; `batch` is both trainers without a tracker;
    `group` is Flow-GRPO, arXiv:2505.05470, yifan123/flow_grpo, with a group's own deviation.
    Differs: the memory is a value; the inputs are never changed.
    """

    name: ClassVar[str] = "returns"
    gamma: float | None = Field(
        default=0.99, le=1, description="Discount; none, or 0 or less: rewards as they are."
    )
    per: Literal["prompt-step", "prompt", "group", "step", "batch", "none"] = Field(
        default="prompt-step", description="Which returns an advantage is compared with."
    )
    buffer: PositiveInt = Field(
        default=32, description="Newest trajectories remembered per prompt."
    )
    min_count: PositiveInt = Field(
        default=16,
        description="Remembered trajectories below which the epoch's statistics are used.",
    )
    epsilon: PositiveFloat | None = Field(
        default=None,
        description="Added to the standard deviation; default 1e-6; batch: 1e-8, group: 1e-4.",
    )

    @property
    def looks_ahead(self) -> bool:
        """Whether a step's advantage depends on the rewards of later steps."""
        return self.gamma is not None and self.gamma > 0

    def problems(self) -> list[str]:
        """Return what pydantic cannot say field by field, one line each."""
        if self.per not in ("prompt", "prompt-step") or self.min_count <= self.buffer:
            return []
        return [
            f"advantage_estimator.min_count is {self.min_count}, which a buffer of "
            f"{self.buffer} never reaches; raise advantage_estimator.buffer"
        ]

    def group_problems(self, group: int) -> list[str]:
        """Return what keeps it from working with groups of that many rows, one line each."""
        if self.per != "group" or group > 1:
            return []
        return ["advantage_estimator.per=group compares rows of a group, but sampler.group is 1"]

    def __call__(
        self, rewards: Rewards, prompts: Prompts, memory: Memory
    ) -> tuple[Advantages, Memory]:
        """Return advantages of shape `n T` and the memory to hand in next time."""
        value = returns(rewards.value, self.gamma or 0.0)
        if self.per in ("prompt", "prompt-step"):
            scored, memory = self._tracked(value, prompts, memory)
        elif self.per == "none":
            scored = value
        elif self.per == "group":
            scored = value.clone()
            for number in prompts.group.unique():
                rows = prompts.group == number
                scored[rows] = self._score(value[rows], value[rows])
        else:
            scored = self._score(value, value)
        return Advantages(scored, rewards.grad, rewards.each), memory

    def _score(
        self, value: Float[Tensor, "n T"], usual: Float[Tensor, "c T"]
    ) -> Float[Tensor, "n T"]:
        """Return z-scores of `value` by the statistics of `usual`."""
        over = 0 if self.per in ("prompt-step", "step", "group") else (0, 1)
        epsilon = self.epsilon
        if epsilon is None:
            epsilon = {"batch": 1e-8, "group": 1e-4}.get(self.per, 1e-6)
        least, most = usual.amin(over, keepdim=True), usual.amax(over, keepdim=True)
        mean = usual.mean(over, keepdim=True).where(least < most, least)  # of equals, not rounded
        return (value - mean) / (usual.std(over, correction=0, keepdim=True) + epsilon)

    def _tracked(
        self, value: Float[Tensor, "n T"], prompts: Prompts, memory: Memory
    ) -> tuple[Float[Tensor, "n T"], Memory]:
        import torch

        scored, history = torch.empty_like(value), dict(memory.history)
        rows: dict[str, list[int]] = {}
        for row, text in enumerate(prompts.text):
            rows.setdefault(text, []).append(row)
        for text, at in rows.items():
            key = (text, value.shape[1])
            kept = value[at]
            if key in history:
                kept = torch.cat([history[key].to(value), kept])
            history[key] = kept[max(len(kept) - self.buffer, 0) :].clone()
            enough = len(history[key]) >= self.min_count
            scored[at] = self._score(value[at], history[key] if enough else value)
        return scored, Memory(history)


def returns(reward: Float[Tensor, "n T"], gamma: float) -> Float[Tensor, "n T"]:
    """Return the discounted sum of each step's reward and all later ones.

    A gamma of 0 or less gives the rewards as they are.
    """
    total = reward.clone()
    if gamma > 0:
        for k in reversed(range(reward.shape[1] - 1)):
            total[:, k] += gamma * total[:, k + 1]
    return total


@hookimpl
def diffrl_advantage_estimators() -> list[type[AdvantageEstimator]]:
    """Return the core's advantage estimators."""
    return [Returns]
