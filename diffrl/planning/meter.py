"""What a piece of work costs on torch's `meta` device: FLOPs, and bytes alive at once."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from diffrl.tensors import Tensor


@dataclass(frozen=True)
class Cost:
    """What a piece of work costs.

    Args:
        flops: floating-point operations of matrix products, convolutions and attention.
        peak: the most bytes alive at once, of what the work itself allocated.
        kept: bytes that a forward pass keeps for the backward pass.
    """

    flops: float
    peak: int
    kept: int = 0


EVERY = 32
"""Storages that are followed between two collections of cycles."""


class LiveBytes(TorchDispatchMode):
    """Follows the birth and death of storages; each counts once, however many views it has.

    Args:
        cycles: whether work leaves storages in cycles of objects, as recomputed activations do.
            These are collected at fixed times, so that what is counted is the same in every
            process.
    """

    def __init__(self, cycles: bool = False) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()
        self._cycles, self._followed = cycles, 0

    def __enter__(self) -> LiveBytes:
        if self._cycles:
            gc.collect()
            gc.freeze()  # what is there already need not be looked at again
        super().__enter__()
        return self

    def __exit__(self, *how: Any) -> None:
        super().__exit__(*how)
        if self._cycles:
            gc.unfreeze()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation; what it was given is not its own, what it returns is."""
        for given in _storages((args, kwargs)):
            self._follow(given, 0)
        out = func(*args, **(kwargs or {}))
        for made in _storages(out):
            self._follow(made, made.nbytes())
        return out

    def _follow(self, storage: Any, size: int) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self._followed += 1
        if self._cycles and self._followed % EVERY == 0:
            gc.collect()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _storages(values: Any) -> list[Any]:
    return [v.untyped_storage() for v in tree_leaves(values) if isinstance(v, torch.Tensor)]


LOW = (F.linear, F.conv2d, torch.matmul, torch.bmm, torch.baddbmm, torch.addmm, torch.Tensor.matmul)
"""What autocast computes in half precision, of what these networks call."""

NORMS = (F.layer_norm, F.group_norm)
HIGH = (*NORMS, F.softmax, torch.Tensor.softmax, torch.softmax)
"""What autocast computes in fp32."""


class AsOnDevice(TorchFunctionMode):
    """Makes `meta` tensors take the ways that autocast and fused attention take on a device.

    Autocast does not know `meta`, and attention there is written out in full.
    Source: the lists of operations in PyTorch's documentation of torch.amp.

    Args:
        half: the dtype of autocast; none: there is no autocast.
        fused: whether attention is one kernel, which keeps no matrix of weights.
        half_norms: whether norms give the precision of their weights, whatever autocast would.
    """

    def __init__(self, half: torch.dtype | None, fused: bool, half_norms: bool = False) -> None:
        super().__init__()
        self._half, self._fused = half, fused
        self._high = HIGH[len(NORMS) :] if half_norms else HIGH
        self._cast: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a function as autocast would."""
        kwargs = kwargs or {}
        attends = func is F.scaled_dot_product_attention
        if self._half is not None and (attends or func in LOW):
            args, kwargs = self._as(self._half, args), self._named_as(self._half, kwargs)
        elif self._half is not None and func in self._high:
            args, kwargs = self._as(torch.float32, args), self._named_as(torch.float32, kwargs)
        if attends and self._fused and kwargs.get("attn_mask") is None:
            return torch.ops.aten._scaled_dot_product_flash_attention(*args[:3])[0]
        return func(*args, **kwargs)

    def _as(self, dtype: torch.dtype, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(self._to(dtype, one) for one in args)

    def _named_as(self, dtype: torch.dtype, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {name: self._to(dtype, one) for name, one in kwargs.items()}

    def _to(self, dtype: torch.dtype, one: Any) -> Any:
        if not isinstance(one, torch.Tensor) or not one.is_floating_point() or one.dtype == dtype:
            return one
        if not (one.is_leaf and one.requires_grad):
            return one.to(dtype)
        if id(one) not in self._cast:  # autocast casts a weight once
            self._cast[id(one)] = one.to(dtype)
        return self._cast[id(one)]


def cost(work: Callable[[], object], device: AsOnDevice) -> Cost:
    """Return what work costs that is done without gradient on a device."""
    counted = FlopCounterMode(display=False)
    with torch.no_grad(), device, counted, LiveBytes() as bytes_:
        work()
    return Cost(float(counted.get_total_flops()), bytes_.peak)


def _run_backward(value: Tensor) -> None:
    """Run a backward pass in which function modes stay on: torch's own entry puts them off."""
    torch.autograd.graph._engine_run_backward(  # pyright: ignore[reportPrivateUsage]
        (value,), (torch.ones_like(value),), False, False, (),
        allow_unreachable=True, accumulate_grad=True,
    )  # fmt: skip


def cost_of_training(work: Callable[[], Tensor], device: AsOnDevice, cycles: bool = False) -> Cost:
    """Return what work and its backward pass cost; gradients that are there already do not.

    `cycles` says whether it leaves storages in cycles of objects, as recomputed activations do.
    """
    counted = FlopCounterMode(display=False)
    with counted, device, LiveBytes(cycles) as bytes_:
        out = work()
        value = out.square().mean()
        kept = bytes_.live - out.numel() * out.element_size()
        _run_backward(value)  # which may repeat the forward pass
    return Cost(float(counted.get_total_flops()), bytes_.peak, kept)
