"""The preference loss on single denoising steps."""

from __future__ import annotations

from math import log1p
from typing import ClassVar

from pydantic import Field, PositiveFloat

from diffrl.stages import Loss, Policy
from diffrl.tensors import Float, Tensor
from diffrl.types import Batch, LossOut


class StepPreference(Loss):
    """Makes the preferred row of a pair likelier than the other, one denoising step at a time.

        r = clamp(exp(log_prob - base), 1 - clip, 1 + clip)
        loss = -mean of log sigmoid(beta (p_a log r_a + p_b log r_b))

    with p = (1, -1) where row a is preferred, (-1, 1) where row b is, and (0, 0) where neither is:
    the loss is then log 2 and has no gradient. A row is preferred if its advantage is larger. With
    several rewards it must be at least as good in each of them and better in one, if the reward
    predictor scores each row once (`terminal`); else their weighted sum decides. `base` is the
    model as it was loaded, not the policy that sampled. A ratio outside its range gets no
    gradient; the bounds on log r are not symmetric.

    Metrics: `preferred` is the share of pairs with a preference; `ranked_right` the share of all
    pairs that have one and whose better row is already likelier, compared with the base;
    `clip_fraction` of ratios outside the range; `base_log_ratio_abs_max`.

    Source: D3PO, arXiv:2311.13231; yk7333/d3po scripts/rm/train_d3po.py.
    Differs: log r is clamped, which is the same but for ratios that overflow.
    """

    name: ClassVar[str] = "step-preference"
    needs: ClassVar[frozenset[str]] = frozenset({"path", "base"})
    arity: ClassVar[int] = 2
    beta: PositiveFloat = Field(default=0.1, description="Sharpness of the preference.")
    clip: float = Field(
        default=0.1, gt=0, lt=1, description="Half-width of the trusted ratios to the base model."
    )

    def __call__(self, policy: Policy, batch: Batch) -> LossOut:
        """Return the loss of one batch of pairs."""
        from torch.nn.functional import logsigmoid

        log_ratio = policy.log_prob(batch) - policy.log_prob(batch, "base")  # m 2 s
        preference = preferences(batch).to(log_ratio)  # m 2 s
        trusted = log_ratio.clamp(log1p(-self.clip), log1p(self.clip))
        margin = (preference * trusted).sum(1)  # m s
        seen, decided = log_ratio.detach(), preference[:, 0] != 0
        ranked = (preference * seen).sum(1) > 0
        metrics = {
            "preferred": decided.to(seen).mean(),
            "ranked_right": ranked.to(seen).mean(),
            "clip_fraction": ((seen.exp() - 1).abs() > self.clip).to(seen).mean(),
            "base_log_ratio_abs_max": seen.abs().max(),
        }
        return LossOut(-logsigmoid(self.beta * margin).mean(), metrics)


def preferences(batch: Batch) -> Float[Tensor, "m 2 s"]:
    """Return 1 for the preferred row of a pair, -1 for the other, 0 for both of a tie."""
    if batch.each is None or batch.each.shape[2] == 1:
        return (batch.advantage - batch.advantage.flip(1)).sign()
    gap = batch.each - batch.each.flip(1)  # m 2 r
    better = (gap >= 0).all(2) & (gap > 0).any(2)  # m 2
    preferred = better.to(gap) - better.flip(1).to(gap)
    return preferred[..., None].expand_as(batch.advantage)
