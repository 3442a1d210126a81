"""Weights that processes split between them, by PyTorch's `fully_shard` (FSDP2).

Each process keeps a part of every weight, of its gradient and of the optimizer's state. A block's
weights are put together where it is called, so that all processes must call the network equally
often.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from diffrl.speed.merging import apart
from diffrl.tensors import Tensor

BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")
"""Classes of diffusers whose weights are put together at once; the rest of a UNet is one more."""

BUCKET = 2**26
"""Elements of gradients that processes add up at once: 256 MiB in fp32."""


def split(unet: nn.Module, kind: str) -> None:
    """Leave this process its part of a UNet whose weights are all trained.

    They travel as they are, in fp32, so that autocast makes of them what it makes of whole ones.

    Args:
        unet: the same in every process.
        kind: `weights`: put together for each call; `gradients`: put together until the next
            optimizer step.
    """
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    place = next(unet.parameters()).device.type
    options: dict[str, Any] = {
        "mesh": init_device_mesh(place, (distributed.get_world_size(),)),
        "reshard_after_forward": kind == "weights",
    }
    for weight in unet.parameters():
        weight.data = weight.data.contiguous()  # which FSDP insists on
    for module in reversed([m for m in unet.modules() if type(m).__name__ in BLOCKS]):
        fully_shard(module, **options)
    fully_shard(unet, **options)
    for module in _gathered(unet):
        module.set_gradient_divide_factor(1.0)  # losses are weighted for a sum
        module.set_force_sum_reduction_for_comms(True)  # Gloo cannot multiply on the way


def can_split() -> bool:
    """Return whether this PyTorch's FSDP2 adds up gradients as `split` asks it to."""
    try:
        from torch.distributed.fsdp import FSDPModule
    except ImportError:
        return False
    return hasattr(FSDPModule, "set_force_sum_reduction_for_comms")


def is_split(unet: Any) -> bool:
    """Return whether `split` was called on a UNet."""
    return hasattr(type(unet), "reshard")


def regather(unet: Any) -> None:
    """Forget what was put together: parts have changed since."""
    for module in _gathered(unet) if is_split(unet) else ():
        module.reshard()


def together(value: Any) -> Any:
    """Return a tensor put together, if it is split; every process must call it."""
    return value.full_tensor() if _is_part(value) else value


def whole(value: Any, keep: bool = True) -> Any:
    """Return nested values with every split tensor put together, on the CPU.

    Every process must call it on the same values; one that does not `keep` them gets None in place
    of each, so that no more than one is whole at a time.
    """
    if isinstance(value, Mapping):
        return {name: whole(one, keep) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(one, keep) for one in value)
    if not _is_part(value):
        return value
    found = together(value)
    return found.cpu() if keep else None


def alike(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor as another of its shape is: on its device, in its layout, or its part.

    Fused optimizers go through a weight and its state side by side in memory, whatever their
    strides say, so that the state of a channels-last weight must be channels-last, too.
    """
    part: Any = like
    if not _is_part(like):
        return torch.empty_like(like, dtype=value.dtype).copy_(value)
    placed = value.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(placed, part.device_mesh, part.placements, src_data_rank=None)


def copies(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of weights by name, made all at once where each is whole."""
    if not weights or any(_is_part(one) for one in weights.values()):
        return {name: one.detach().clone() for name, one in weights.items()}
    made = {name: torch.empty_like(one.detach()) for name, one in weights.items()}
    torch._foreach_copy_(list(made.values()), [one.detach() for one in weights.values()])
    return made


def called_with(
    unet: Any, weights: Mapping[str, Tensor], inputs: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    """Return what a UNet gives with other weights than its own, without gradient.

    Args:
        unet: that is called.
        weights: of the parameters that are trained, by name; parts where it is split.
        inputs: of the call.
        options: of the call.
    """
    with torch.no_grad():
        if not is_split(unet):
            with apart(unet):
                return functional_call(unet, dict(weights), inputs, options)
        with _exchanged(unet, weights):
            return unet(*inputs, **options)


def plain_class(unet: Any) -> type[Any]:
    """Return the class that a UNet had before it was split."""
    return next(c for c in type(unet).__mro__ if not hasattr(c, "reshard"))


@contextlib.contextmanager
def _exchanged(unet: Any, weights: Mapping[str, Any]) -> Iterator[None]:
    """Put other weights into the place of this process's parts meanwhile."""
    regather(unet)
    own = {n: p.to_local() for n, p in unet.named_parameters() if n in weights}
    kept = {n: part.clone() for n, part in own.items()}
    for name, part in own.items():
        part.copy_(weights[name].to_local())
    try:
        yield
    finally:
        regather(unet)
        for name, part in own.items():
            part.copy_(kept[name])
        # Or the streams of the next backward pass may gather before they are back.
        if any(part.is_cuda for part in own.values()):
            torch.cuda.current_stream().synchronize()


def _gathered(unet: Any) -> Iterator[Any]:
    """Yield the modules whose weights are put together at once."""
    from torch.distributed.fsdp import FSDPModule

    yield from (m for m in unet.modules() if isinstance(m, FSDPModule))


def _is_part(value: Any) -> bool:
    return hasattr(value, "full_tensor")
