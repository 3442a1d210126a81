"""The clipped surrogate of PPO, one denoising step at a time."""

from __future__ import annotations

from math import log1p
from typing import ClassVar

from pydantic import Field, PositiveFloat

from diffrl.stages import Loss, Policy
from diffrl.types import Batch, LossOut


class ClippedRatio(Loss):
    """Raises the probability of steps with positive advantage, as long as it stays near the old.

        r = exp(log_prob - stored log_prob)
        loss = mean of max(-A r, -A clamp(r, 1 - clip, 1 + clip))

    with the advantage A clamped to ±advantage_clip. Log-probs are averaged over the latent, so that
    a clip of 1e-4 on 4 x 64 x 64 latents is 1.6 nats of the joint density. Beyond the range, in the
    direction that A pulls, there is no gradient.

    Metrics: `clip_fraction` of rows and steps with |r - 1| > clip; `approx_kl`, half the mean
    squared log-ratio; `log_ratio_abs_max`.

    Source: DDPO, arXiv:2305.13301, with the clipping of PPO, arXiv:1707.06347, eq. 7;
    kvablack/ddpo-pytorch scripts/train.py.
    """

    name: ClassVar[str] = "clipped-ratio"
    needs: ClassVar[frozenset[str]] = frozenset({"path", "log_prob"})
    clip: PositiveFloat = Field(default=1e-4, description="Half-width of the trusted ratios.")
    advantage_clip: PositiveFloat = Field(default=5.0, description="Bound on each advantage.")

    @property
    def log_ratio_limit(self) -> float | None:
        """The clip range on log-ratios: what a log-prob gap is compared with."""
        return self.clip

    def __call__(self, policy: Policy, batch: Batch) -> LossOut:
        """Return the loss of one batch of rows."""
        assert batch.log_prob is not None
        log_ratio = policy.log_prob(batch) - batch.log_prob  # m 1 s
        advantage = batch.advantage.clamp(-self.advantage_clip, self.advantage_clip)
        beyond = log_ratio.clamp(max=log1p(self.clip) + 1)  # not in use there, but may overflow
        ratio = beyond.where(advantage >= 0, log_ratio).exp()
        trusted = ratio.clamp(1 - self.clip, 1 + self.clip)
        loss = (-advantage * ratio).maximum(-advantage * trusted)
        seen = log_ratio.detach()
        metrics = {
            "clip_fraction": ((ratio.detach() - 1).abs() > self.clip).to(seen).mean(),
            "approx_kl": seen.square().mean() / 2,
            "log_ratio_abs_max": seen.abs().max(),
        }
        return LossOut(loss.mean(), metrics)
