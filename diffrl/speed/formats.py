"""Formats in which tensors lie in memory and in which matrices are multiplied."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn

from diffrl.tensors import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precisions by the names that settings give them."""


def channels_last(pipeline: Any) -> None:
    """Lay out the weights of UNet and VAE channel after channel, and what they are given.

    Convolutions of half precision are faster so on GPUs. Values are the same.
    """
    for network, first in (
        (pipeline.unet, pipeline.unet),
        (pipeline.vae, pipeline.vae.decoder),
        (pipeline.vae, pipeline.vae.encoder),
    ):
        network.to(memory_format=torch.channels_last)
        first.register_forward_pre_hook(_laid_out)


def half_norms(network: Any) -> None:
    """Let the norms of a network give the precision of their weights, whatever autocast would.

    On a GPU autocast computes norms in fp32 and gives fp32, which the next layer rounds: four times
    the bytes. Kernels for half precision sum in fp32, too.
    """
    for module in network.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm) and module.weight is not None:
            module.forward = MethodType(_in_own_precision, module)


def multiply_in_tf32(wanted: bool, device: str) -> None:
    """Let CUDA multiply fp32 matrices in TF32, or not; convolutions follow torch's own default."""
    if device == "cuda":
        torch.set_float32_matmul_precision("high" if wanted else "highest")


def _in_own_precision(module: Any, x: Tensor) -> Tensor:
    """Normalise in the precision of a norm's weights."""
    with torch.autocast(x.device.type, enabled=False):
        return type(module).forward(module, x.to(module.weight.dtype))


def _laid_out(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a network's arguments with the first one, a batch of pictures, channels-last."""
    pictures: Tensor = args[0]
    return (pictures.contiguous(memory_format=torch.channels_last), *args[1:])
