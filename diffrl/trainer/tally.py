"""What an epoch leaves behind for its line of metrics."""

from __future__ import annotations

from dataclasses import dataclass, field

from diffrl.judge import Ledger
from diffrl.tensors import Float, Tensor
from diffrl.trainer.collect import Collected
from diffrl.types import Advantages


@dataclass
class Tally:
    """The figures of an epoch. Tensors stay on the device.

    Args:
        found: the trajectories.
        everyone: the advantages of all rows.
        ledger: this process's scores.
        seconds: spent under each name.
        losses: of each piece, its weight and what the loss reported.
        grad_norms: of each optimizer step.
        gaps: |log-ratios| of each piece before the first one.
        moved: how far recomputed log-probs are from those of sampling.
        compiling: seconds of it that went into compiling networks.
    """

    found: Collected
    everyone: Advantages
    ledger: Ledger
    seconds: dict[str, float] = field(default_factory=dict)
    losses: list[tuple[float, dict[str, Tensor]]] = field(default_factory=list)
    grad_norms: list[Tensor] = field(default_factory=list)
    gaps: list[Float[Tensor, "..."]] = field(default_factory=list)
    moved: Float[Tensor, "n T"] | None = None
    compiling: float = 0.0

    @property
    def advantages(self) -> Advantages:
        """The advantages of this process's rows."""
        share, every = self.found.share, self.everyone
        if len(share.owned) == 1:
            return every
        rows = share.own_rows.to(every.value.device)
        grad = None if every.grad is None else every.grad[rows]
        each = None if every.each is None else every.each[rows]
        return Advantages(every.value[rows], grad, each)
