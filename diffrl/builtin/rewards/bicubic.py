"""Pillow's antialiased bicubic resizing as two matrix products: same bits, with gradient.

Scorers were trained on pictures that Pillow resized. torch's float kernels are off by up to 10 of
255 levels at strong contrasts, because Pillow cuts overshoots after each of its two passes.
Source: Pillow, `src/libImaging/Resample.c`: weights of 22 bits, rows first, then columns, 8-bit
levels in between.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch

from diffrl.tensors import Device, Float, Tensor

BITS = 22
"""Of a weight's fraction."""

REACH = 2.0
"""Half the width of the bicubic kernel, in pixels of the smaller picture."""


def levels(values: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Return values rounded to whole 8-bit levels in [0, 255]; gradient passes as if they were not.

    Halves go to the even level.
    """
    whole = values.detach().round().clamp(0, 255)
    return whole + (values - values.detach()) if values.requires_grad else whole


def resized(pixels: Float[Tensor, "b c h w"], edge: int) -> Float[Tensor, "b c s t"]:
    """Return whole 8-bit levels with a shorter side of `edge` pixels, from whole 8-bit levels."""
    height, width = pixels.shape[-2:]
    short = min(height, width)
    tall, wide = int(edge * height / short), int(edge * width / short)
    # Sums of 8-bit levels times 22-bit weights are exact in 64 bits. MPS has but 32: there a half
    # may fall to the other side.
    exact = torch.float32 if pixels.device.type == "mps" else torch.float64
    place = placed.__wrapped__ if pixels.is_meta else placed  # a plan counts each call alike
    along_rows = place(width, wide, pixels.device, exact)
    along_columns = place(height, tall, pixels.device, exact)
    rows = _halves_up(pixels.to(exact) @ along_rows.T)
    return _halves_up(along_columns @ rows).to(pixels.dtype)


@lru_cache(maxsize=8)
def weights(length: int, goal: int) -> Float[Tensor, "goal length"]:
    """Return the matrix that resizes a line of pixels, its weights rounded as Pillow rounds."""
    scale = length / goal
    stretch = max(scale, 1.0)
    matrix = torch.zeros(goal, length, dtype=torch.float64)
    for i in range(goal):
        center, reach = (i + 0.5) * scale, REACH * stretch
        first, last = max(int(center - reach + 0.5), 0), min(int(center + reach + 0.5), length)
        line = [_bicubic((x - center + 0.5) / stretch) for x in range(first, last)]
        total = sum(line)
        for x, weight in enumerate(line, first):
            whole = weight / total * 2**BITS
            matrix[i, x] = math.trunc(whole - 0.5 if whole < 0 else whole + 0.5) / 2**BITS
    return matrix


@lru_cache(maxsize=8)
def placed(
    length: int, goal: int, device: Device, dtype: torch.dtype
) -> Float[Tensor, "goal length"]:
    """Return `weights` on a device, where a copy would wait for all that was asked of it before."""
    return weights(length, goal).to(device, dtype)


def _bicubic(x: float) -> float:
    """Return Keys' kernel with a = -1/2."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2 else 0.0


def _halves_up(values: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Return levels in [0, 255], halves rounded up; gradient passes as if they were not rounded."""
    whole = (values.detach() + 0.5).floor().clamp(0, 255)
    return whole + (values - values.detach()) if values.requires_grad else whole
