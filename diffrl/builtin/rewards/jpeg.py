"""How well JPEG compresses a picture: DDPO's rewards without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from diffrl.stages import Reward, Scorer
from diffrl.tensors import Float, Tensor


class JpegIncompressibility(Reward):
    """Size of the picture as a JPEG, in kilobytes of 1000 bytes. Ignores the prompt.

    Sizes depend a little on the JPEG library behind Pillow.
    Source: DDPO, arXiv:2305.13301; kvablack/ddpo-pytorch `rewards.py`.
    """

    name: ClassVar[str] = "jpeg-incompressibility"
    licence: ClassVar[str] = "none needed"
    likes_noise: ClassVar[bool] = True
    quality: int = Field(95, ge=1, le=100, description="Of the JPEG.")

    def load(self, device: str) -> Scorer:
        """Return the scorer; it works on the CPU, wherever the pictures are."""

        def score(images: Float[Tensor, "b 3 h w"], text: Sequence[str]) -> Float[Tensor, "b"]:
            return jpeg_kilobytes(images, self.quality)

        return score


class JpegCompressibility(Reward):
    """Minus the size of the picture as a JPEG, in kilobytes of 1000 bytes. Ignores the prompt.

    Source: DDPO, arXiv:2305.13301; kvablack/ddpo-pytorch `rewards.py`.
    """

    name: ClassVar[str] = "jpeg-compressibility"
    licence: ClassVar[str] = "none needed"
    quality: int = Field(95, ge=1, le=100, description="Of the JPEG.")

    def load(self, device: str) -> Scorer:
        """Return the scorer; it works on the CPU, wherever the pictures are."""

        def score(images: Float[Tensor, "b 3 h w"], text: Sequence[str]) -> Float[Tensor, "b"]:
            return -jpeg_kilobytes(images, self.quality)

        return score


def jpeg_kilobytes(images: Float[Tensor, "b 3 h w"], quality: int) -> Float[Tensor, "b"]:
    """Return the size of each picture in [0, 1] as a JPEG, in kilobytes of 1000 bytes."""
    import io

    import torch
    from PIL import Image

    from diffrl.builtin.rewards.bicubic import levels

    pixels = levels(images.detach().float() * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    sizes = []
    for one in pixels:
        file = io.BytesIO()
        Image.fromarray(one).save(file, "JPEG", quality=quality)
        sizes.append(file.tell() / 1000)
    return torch.tensor(sizes, device=images.device)
