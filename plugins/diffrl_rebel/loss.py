"""Losses that regress a pair's difference of rewards on its trajectories' log-ratios."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, NonNegativeFloat, PositiveFloat

from diffrl.stages import Loss, Policy
from diffrl.tensors import Float, Tensor
from diffrl.types import Batch, LossOut


class RelativeReward(Loss):
    """Regresses the difference of a pair's trajectory log-ratios on that of its advantages.

        rho = sum over steps of (log_prob - stored log_prob)
        loss = mean of ((rho_a - rho_b) / eta - (A_a - A_b))²

    With clip > 0 each step's log-ratio is also clamped to ±clip before it is summed, and the larger
    of the two losses counts: PRDP's proximal updates around REBEL's regression, the baseline that
    SDPO's paper calls PRDP/REBEL.

    Metrics: `error_abs_mean` of the regression; `log_ratio_abs_max` over steps; `clip_fraction` of
    steps beyond the clip, 0 without one.

    Source: REBEL, arXiv:2404.16767; Owen-Oertell/rlcm, its REBEL loop, whose `rebel_lr` is
    1 / eta; the clip as in PRDP, arXiv:2402.08714, around the sampling policy.
    Differs: the published loop sums the current log-probs of all rows of a micro-batch into one
    number, which mixes trajectories; here each has its own, as in the paper. Equal for one row.
    """

    name: ClassVar[str] = "relative-reward"
    needs: ClassVar[frozenset[str]] = frozenset({"path", "log_prob"})
    arity: ClassVar[int] = 2
    any_arity: ClassVar[bool] = True
    whole_trajectories: ClassVar[bool] = True
    eta: PositiveFloat = Field(default=1.0, description="Divides the log-ratios.")
    clip: NonNegativeFloat = Field(
        default=0.0, description="Bound on each step's log-ratio; 0: unbounded."
    )

    @property
    def log_ratio_limit(self) -> float | None:
        """The clip range on log-ratios, if any: what a log-prob gap is compared with."""
        return self.clip or None

    def __call__(self, policy: Policy, batch: Batch) -> LossOut:
        """Return the loss of one batch of pairs, or larger tuples, with all their steps."""
        assert batch.log_prob is not None
        log_ratio = policy.log_prob(batch) - batch.log_prob  # m k s
        wanted = batch.advantage.mean(2)  # m k
        error = between(log_ratio.sum(2) / self.eta - wanted)
        loss = error.square()
        if self.clip:
            near = log_ratio.clamp(-self.clip, self.clip)
            loss = loss.maximum(between(near.sum(2) / self.eta - wanted).square())
        return LossOut(loss.mean(), _metrics(error, log_ratio, self.clip))


class ProximalRelativeReward(Loss):
    """Regresses on log-ratios to the base model, with each step held near the sampling policy.

        r = sum over steps of (log_prob - base),  r~ the same with log_prob clamped to
        stored log_prob ± clip;  D = (R_a - R_b) / beta
        loss = mean of max((r_a - r_b - D)², (r~_a - r~_b - D)²)

    R is the advantage of a trajectory; PRDP takes the plain reward, `per=none`. At the optimum the
    policy maximises R minus beta / D times its divergence from the base model, where D is the
    number of latent elements: log-probs are averaged over them. The paper writes sums, so its beta
    is this one divided by D.

    Metrics: `error_abs_mean` of the regression; `log_ratio_abs_max` and `clip_fraction` of the
    log-ratios to the sampling policy; `base_log_ratio_mean`, of a trajectory to the base model.

    Source: PRDP, arXiv:2402.08714. No code was published; beta and the clip range of
    its main runs are unknown.
    """

    name: ClassVar[str] = "proximal-relative-reward"
    needs: ClassVar[frozenset[str]] = frozenset({"path", "log_prob", "base"})
    arity: ClassVar[int] = 2
    any_arity: ClassVar[bool] = True
    whole_trajectories: ClassVar[bool] = True
    beta: PositiveFloat = Field(
        default=1.0,
        description="Reward per nat and latent element that a path moves from the base model.",
    )
    clip: PositiveFloat = Field(
        default=1e-4,
        description="Nats per latent element that a step may move from the policy that sampled.",
    )

    @property
    def log_ratio_limit(self) -> float | None:
        """The clip range on log-ratios: what a log-prob gap is compared with."""
        return self.clip

    def __call__(self, policy: Policy, batch: Batch) -> LossOut:
        """Return the loss of one batch of pairs, or larger tuples, with all their steps."""
        assert batch.log_prob is not None
        log_prob, base = policy.log_prob(batch), policy.log_prob(batch, "base")  # m k s
        near = log_prob.clamp(batch.log_prob - self.clip, batch.log_prob + self.clip)
        wanted = batch.advantage.mean(2) / self.beta  # m k
        error, bounded = (between((lp - base).sum(2) - wanted) for lp in (log_prob, near))
        metrics = {
            **_metrics(error, log_prob - batch.log_prob, self.clip),
            "base_log_ratio_mean": (log_prob.detach() - base).sum(2).mean(),
        }
        return LossOut(error.square().maximum(bounded.square()).mean(), metrics)


def between(value: Float[Tensor, "m k"]) -> Float[Tensor, "m p"]:
    """Return the differences of all p = k (k - 1) / 2 pairs of each tuple, earlier minus later."""
    import torch

    first, second = torch.triu_indices(value.shape[1], value.shape[1], 1, device=value.device)
    return value[:, first] - value[:, second]


def _metrics(error: Tensor, log_ratio: Tensor, clip: float) -> dict[str, Tensor]:
    seen = log_ratio.detach().abs()
    beyond = (seen > clip).to(seen).mean() if clip else seen.new_zeros(())
    return {
        "error_abs_mean": error.detach().abs().mean(),
        "log_ratio_abs_max": seen.max(),
        "clip_fraction": beyond,
    }
