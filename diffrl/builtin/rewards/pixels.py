"""From pictures to what vision towers expect: on the device, with gradient, as PIL would.

Source of the steps: the scorers of SDPO and TDPO: round(255 x) to 8 bit, antialiased bicubic to the
shortest edge, centre crop, mean and standard deviation. Pixels are those of PIL, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from diffrl.builtin.rewards.bicubic import levels, resized
from diffrl.tensors import Device, Float, Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocess:
    """Resizes the shorter side to `edge`, crops the middle, and normalises.

    Args:
        edge: shorter side in pixels after resizing.
        crop: height and width that stay.
        mean: of each channel, in [0, 1].
        std: of each channel.
    """

    edge: int
    crop: tuple[int, int]
    mean: Sequence[float] = CLIP_MEAN
    std: Sequence[float] = CLIP_STD

    @classmethod
    def square(cls, side: int) -> Preprocess:
        """Return CLIP's steps for square towers of a size in pixels."""
        return cls(side, (side, side))

    @classmethod
    def of(cls, processor: Any) -> Preprocess:
        """Return the steps of a transformers image processor of the CLIP kind.

        Raises:
            ValueError: if it is of another kind, which has no shorter side.
        """
        size, crop_size = dict(processor.size or {}), dict(processor.crop_size or {})
        try:
            crop = int(crop_size["height"]), int(crop_size["width"])
            edge = int(size["shortest_edge"])
        except (KeyError, TypeError):
            raise ValueError(
                f"its image processor has size {size} and crop_size {crop_size}; expected "
                f"shortest_edge, and height and width"
            ) from None
        return cls(edge, crop, tuple(processor.image_mean), tuple(processor.image_std))

    def __call__(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 s t"]:
        """Return pictures in [0, 1], of any equal size, as the tower expects them."""
        pixels = levels(images.float() * 255)
        if min(pixels.shape[-2:]) != self.edge:
            pixels = resized(pixels, self.edge)
        top, left = ((n - c) // 2 for n, c in zip(pixels.shape[-2:], self.crop, strict=True))
        pixels = pixels[..., top : top + self.crop[0], left : left + self.crop[1]]
        place = placed.__wrapped__ if pixels.is_meta else placed
        mean, std = (place(tuple(v), pixels.device) for v in (self.mean, self.std))
        return (pixels / 255 - mean) / std


@lru_cache(maxsize=16)
def placed(values: tuple[float, ...], device: Device) -> Float[Tensor, "c 1 1"]:
    """Return a number for each channel on a device, copied there once."""
    return torch.tensor(values, device=device)[:, None, None]
