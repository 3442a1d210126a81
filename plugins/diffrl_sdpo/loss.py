"""The step-wise reward-difference loss."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, PositiveFloat

from diffrl.stages import Loss, Policy
from diffrl.types import Batch, LossOut


class RewardDifference(Loss):
    """Regresses the difference of a pair's log-ratios on the difference of its advantages.

        w = decay^k / scale,  rho = log_prob - stored log_prob,  rho~ = clamp(rho, -clip, clip)
        loss = mean of max((w (rho_a - rho_b) - dA)², (w (rho~_a - rho~_b) - dA)²)

    with dA = A_a - A_b of the advantages, each clamped to ±advantage_clip, and k the denoising step
    (0 is the noisiest). The weight multiplies the log-ratios only. Where the clipped branch is the
    larger, a side outside the clip range gets no gradient. The loss is nearly dA², no measure of
    progress.

    Metrics: `clip_fraction` of rows and steps with |rho| > clip; `advantage_clip_fraction` of
    advantages beyond the clamp; `log_ratio_abs_max`; `advantage_abs_mean` after the clamp.

    Source: SDPO, arXiv:2411.11727, eq. 16 with the clipping of PRDP; ZiyiZhang27/sdpo
    scripts/train_sdpo.py.
    Differs: the published code clamps log-probs to the stored ones ± clip and logs advantages
    clamped from below only; here the log-ratio is clamped (equal in exact arithmetic) and both
    sides count.
    """

    name: ClassVar[str] = "reward-difference"
    needs: ClassVar[frozenset[str]] = frozenset({"path", "log_prob"})
    arity: ClassVar[int] = 2
    clip: float = Field(default=1e-4, description="Bound on each log-ratio; 0 or less: unbounded.")
    decay: PositiveFloat = Field(
        default=0.99, description="Weight of step k is decay^k; above 1 later steps weigh more."
    )
    reverse: bool = Field(default=False, description="Weight of step k is decay^(T-1-k) instead.")
    scale: PositiveFloat = Field(
        default=1.0, description="Divides the log-ratios; the paper's eta."
    )
    advantage_clip: PositiveFloat = Field(default=5.0, description="Bound on each advantage.")

    @property
    def log_ratio_limit(self) -> float | None:
        """The clip range on log-ratios, if any: what a log-prob gap is compared with."""
        return self.clip if self.clip > 0 else None

    def __call__(self, policy: Policy, batch: Batch) -> LossOut:
        """Return the loss of one batch of pairs."""
        assert batch.log_prob is not None
        log_ratio = policy.log_prob(batch) - batch.log_prob  # m 2 s
        bound = self.advantage_clip
        advantage = batch.advantage.clamp(-bound, bound)
        gap = advantage[:, 0] - advantage[:, 1]  # m s
        place = batch.length - 1 - batch.step if self.reverse else batch.step
        weight = self.decay ** place.to(log_ratio) / self.scale
        error = (weight * (log_ratio[:, 0] - log_ratio[:, 1]) - gap).square()
        beyond = log_ratio.detach().abs()
        clipped = beyond.new_zeros(())
        if self.clip > 0:
            near = log_ratio.clamp(-self.clip, self.clip)
            error = error.maximum((weight * (near[:, 0] - near[:, 1]) - gap).square())
            clipped = (beyond > self.clip).to(beyond).mean()
        metrics = {
            "clip_fraction": clipped,
            "advantage_clip_fraction": (batch.advantage.abs() > bound).to(beyond).mean(),
            "log_ratio_abs_max": beyond.max(),
            "advantage_abs_mean": advantage.abs().mean(),
        }
        return LossOut(error.mean(), metrics)
