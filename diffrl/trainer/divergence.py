"""How far the policy's transitions have moved from those of the model as it was loaded."""

from __future__ import annotations

import torch

from diffrl.protocols import Policy
from diffrl.tensors import Float, Tensor
from diffrl.types import Rollout


class Moved:
    """The KL divergence of the first rows that are drawn, in whatever pieces they come.

    Args:
        policy: whose weights are compared.
        rows: how many are, at most.
    """

    def __init__(self, policy: Policy, rows: int) -> None:
        self._policy, self._left = policy, rows
        self._found: list[tuple[float, int]] = []

    def add(self, rollout: Rollout) -> None:
        """Compare what is left to compare of a piece."""
        count = min(self._left, len(rollout))
        if count and (kl := kl_to_base(self._policy, rollout, count)) is not None:
            self._found.append((float(kl), count))
        self._left -= count

    @property
    def mean(self) -> float | None:
        """The mean over rows, in nats per latent element; None where there is none."""
        if not self._found:
            return None
        return sum(kl * count for kl, count in self._found) / sum(n for _, n in self._found)


def kl_to_base(policy: Policy, rollout: Rollout, rows: int) -> Float[Tensor, ""] | None:
    """Return the mean over rows and steps of KL(live ‖ base), in nats per latent element.

    Both are Gaussians of one width, so that it is `(mean - mean_base)² / 2 std²`, along the states
    that the live policy visited. Steps without noise have no width, and are left out.

    Args:
        policy: whose weights are compared.
        rollout: that it drew.
        rows: how many of its rows are used, at most.

    Returns:
        Nothing where the rollout has no path, or no step has noise.
    """
    path = rollout.path
    if path is None:
        return None
    found = []
    with torch.no_grad():
        for step, t in enumerate(rollout.times):
            x = path.x[:rows, step]
            times, cond = t.expand(len(x)), rollout.prompts.cond[:rows]
            live = path.kernel.transition(policy.predict(x, times, cond), times, x)
            base = path.kernel.transition(policy.predict(x, times, cond, "base"), times, x)
            width = live.std.expand_as(live.mean)
            if bool((width > 0).all()):
                found.append(((live.mean - base.mean).square() / (2 * width.square())).mean())
    return torch.stack(found).mean() if found else None
