"""What every run checks of itself on its way; `diffrl doctor` checks more."""

from __future__ import annotations

from collections.abc import Mapping

from diffrl.events import Noticed
from diffrl.settings import Settings

SHARE = 10
"""The log-ratio of unchanged weights should be below the clip range divided by this."""


def of_epoch(settings: Settings, epoch: int, metrics: Mapping[str, int | float]) -> list[Noticed]:
    """Return what an epoch's metrics say is wrong with the run."""
    return [notice for notice in (gap(settings, epoch, metrics),) if notice is not None]


def gap(settings: Settings, epoch: int, metrics: Mapping[str, int | float]) -> Noticed | None:
    """Return a notice if weights that have not changed have changed log-probs."""
    limit = settings.recipe.loss.log_ratio_limit
    measured = metrics.get("log_prob_gap/max", 0.0)
    if not limit or measured <= limit / SHARE:
        return None
    message = (
        f"the log-ratio of unchanged weights is {measured:.1e}, more than a tenth of the clip "
        f"range {limit:g}; precision or batch shape moves it"
    )
    return Noticed(epoch, "check", "log_prob_gap", message, "warn", measured, limit / SHARE)
