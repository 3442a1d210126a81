"""Adapters added to the weights for a while, and weights that are afterwards what they were."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch

_MERGED: WeakKeyDictionary[Any, list[tuple[Any, Any]]] = WeakKeyDictionary()


@contextlib.contextmanager
def merged(unet: Any) -> Iterator[None]:
    """Add the adapters of a UNet to its weights meanwhile: fewer products, other rounding.

    The weights are set back to copies, not subtracted from: they are the same bits afterwards.
    """
    try:
        _merge(unet)
        yield
    finally:
        _restore(unet)


@contextlib.contextmanager
def apart(unet: Any) -> Iterator[None]:
    """Undo `merged` meanwhile, for a call with other adapters; without it nothing happens."""
    if unet not in _MERGED:
        yield
        return
    _restore(unet)
    try:
        yield
    finally:
        _merge(unet)


def _merge(unet: Any) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    _MERGED[unet] = kept = []  # before the first: memory may end on the way
    with torch.no_grad():
        for layer in (m for m in unet.modules() if isinstance(m, BaseTunerLayer)):
            tuned: Any = layer
            kept.append((tuned, tuned.get_base_layer().weight.detach().clone()))
            tuned.merge()


def _restore(unet: Any) -> None:
    with torch.no_grad():
        for layer, weight in _MERGED.pop(unet):
            layer.merged_adapters.clear()
            layer.get_base_layer().weight.copy_(weight)
