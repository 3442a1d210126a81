"""Many small tensors copied from a GPU at once: each copy waits for all that was asked of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from diffrl.speed.fitting import memory_ended
from diffrl.tensors import Tensor

TOGETHER = "cuda"
"""Devices whose tensors are copied many at once."""

BUCKET = 2**24
"""Bytes that are put side by side on the device; what is larger is copied by itself."""


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return tensors on the CPU, without gradient and contiguous."""
    found = {name: one.detach() for name, one in tensors.items()}
    for names in _buckets(found):
        parts = [found[name] for name in names]
        try:
            flat = torch.cat([one.flatten() for one in parts]).cpu()
        except RuntimeError as error:
            if memory_ended(error):
                continue  # one by one they need none of the device's
            raise
        for name, part in zip(names, flat.split([one.numel() for one in parts]), strict=True):
            found[name] = part.view(found[name].shape)
    return {name: one.cpu().contiguous() for name, one in found.items()}


def _buckets(tensors: Mapping[str, Tensor]) -> Iterator[Sequence[str]]:
    """Yield names of tensors of one type, on one device, that fit into a bucket together."""
    held: dict[tuple[torch.device, torch.dtype], list[str]] = {}
    sizes = dict.fromkeys([(one.device, one.dtype) for one in tensors.values()], 0)
    for name, one in tensors.items():
        kind = one.device, one.dtype
        if one.device.type != TOGETHER or one.nbytes > BUCKET:
            continue
        if sizes[kind] + one.nbytes > BUCKET:
            yield held.pop(kind)
            sizes[kind] = 0
        held.setdefault(kind, []).append(name)
        sizes[kind] += one.nbytes
    yield from held.values()
