"""Optimizer steps that are skipped since a gradient is not finite, without waiting for a GPU."""

from __future__ import annotations

from typing import Any

import torch

from diffrl.tensors import Bool, Tensor

FLAGGED = ("cpu", "cuda")
"""Devices on which a fused optimizer can be told by a flag that its gradients are not finite."""


class Streak:
    """How many optimizer steps in a row were skipped, which is found out when somebody asks."""

    def __init__(self) -> None:
        self._now = self._most = 0
        self._unread: list[Tensor] = []

    def add(self, good: Bool[Tensor, ""]) -> None:
        """Note whether the gradient of a step was finite."""
        self._unread.append(good)

    @property
    def now(self) -> int:
        """Steps in a row until now."""
        self.read()
        return self._now

    @property
    def most(self) -> int:
        """The most in a row since `begin`."""
        self.read()
        return self._most

    def begin(self) -> None:
        """Look for the most from now on."""
        self.read()
        self._most = 0

    def go_back(self, count: int) -> None:
        """Forget what was since there were so many in a row."""
        self._unread.clear()
        self._now = count

    def read(self) -> None:
        """Wait for the steps that were noted, and count them."""
        unread, self._unread = self._unread, []
        for good in torch.stack(unread).tolist() if unread else ():
            self._now = 0 if good else self._now + 1
            self._most = max(self._most, self._now)


def step(optimizer: Any, good: Bool[Tensor, ""], scaled: bool, split: bool) -> None:
    """Make an optimizer step, unless its gradients are not finite.

    Where it can, the optimizer itself looks at the device for that, as it does for a scaler.

    Args:
        optimizer: as accelerate has prepared it.
        good: whether gradients are finite.
        scaled: whether a scaler has looked at them already.
        split: whether weights are, so that all that goes with them would have to be.
    """
    own = optimizer.optimizer
    looks = getattr(own, "_step_supports_amp_scaling", False) and good.device.type in FLAGGED
    if scaled:
        optimizer.step()
    elif split or not looks:
        if bool(good):
            optimizer.step()
    else:
        own.found_inf = (~good).float()
        try:
            optimizer.step()
        finally:
            del own.found_inf
