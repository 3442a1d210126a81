"""Values as a run hands them over, compared, and whether one was changed in place."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch

from diffrl.types import Prompts


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Return where two values differ, bit by bit; NaN equals NaN."""
    if isinstance(a, torch.Tensor):
        same = isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape
        if same and torch.equal(a.isnan(), b.isnan()):
            same = torch.equal(a.nan_to_num(), b.nan_to_num())
        return [] if same else [where or "the tensor"]
    if is_dataclass(a) and not isinstance(a, type):
        if type(a) is not type(b):
            return [where]
        names = [f.name for f in fields(a)]
        a, b = {n: getattr(a, n) for n in names}, {n: getattr(b, n) for n in names}
    if isinstance(a, Mapping) and isinstance(b, Mapping) and a.keys() == b.keys():
        return [line for n in a for line in differences(a[n], b[n], f"{where}.{n}".strip("."))]
    if isinstance(a, Sequence) and not isinstance(a, str) and len(a) == len(b):
        return [d for i in range(len(a)) for d in differences(a[i], b[i], f"{where}[{i}]")]
    return [] if a == b else [where or f"{a!r} and {b!r}"]


@contextmanager
def untouched(**values: Any) -> Iterator[None]:
    """Fail if the block changes one of the values, or torch's global generator.

    Raises:
        AssertionError: naming what changed.
    """
    before = copy.deepcopy(values)
    state = torch.random.get_rng_state()
    yield
    changed = differences(before, values)
    assert not changed, f"changed in place: {', '.join(changed)}"
    moved = not torch.equal(state, torch.random.get_rng_state())
    assert not moved, "drew from torch's global generator instead of `rng` or `policy.noise`"


def bare(prompts: Prompts) -> Prompts:
    """Return prompts as stages get them that are handed all rows of an epoch."""
    return replace(prompts, cond=torch.zeros(len(prompts), 0))


def weights_of(policy: Any) -> dict[str, torch.Tensor]:
    """Return all three sets of weights of a toy policy, for comparison."""
    return {
        f"{which}.{name}": tensor.detach()
        for which, net in policy.nets.items()
        for name, tensor in net.state_dict().items()
    }
