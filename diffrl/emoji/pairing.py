"""Which picture a noise should become: a rule the student can learn for every caption at once.

Six fixed, orthonormal projections of the noise are independent normals; their quantiles say where
the animal stands and which paper lies under it. So each noise has one picture per caption, all
pictures stay equally likely, and a single step need not average over layouts. The rule does not
look at the caption, hence carries over to captions never seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffrl.emoji.render import Layout, render_layout
from diffrl.emoji.training import DEVICE
from diffrl.emoji.world import Scene


def projections() -> Tensor:
    """Orthonormal directions [6, 4, 16, 16]: each channel's mean, then left-right and up-down."""
    flat = torch.zeros(6, 4, 16, 16)
    for channel in range(4):
        flat[channel, channel] = 1 / 16
    half = torch.tensor([1.0, -1.0]).repeat_interleave(8) / 16
    flat[4, 0], flat[5, 0] = half[None, :], half[:, None]
    return flat


_WAYS = projections().to(DEVICE)


def layouts(noise: Tensor) -> list[Layout]:
    """The layout that each noise [b, 4, 16, 16] stands for."""
    z = torch.einsum("bchw,kchw->bk", noise.float(), _WAYS)
    hue = torch.atan2(z[:, 0], z[:, 1]) / (2 * np.pi) + 0.5
    depth, light, x, y = torch.special.ndtr(z[:, 2:]).unbind(1)
    return [Layout(*row) for row in torch.stack([x, y, hue, depth, light], 1).tolist()]


@torch.no_grad()
def paired(vae: Any, scenes: Sequence[Scene], noise: Tensor) -> Tensor:
    """Scaled latents [b, 4, 16, 16] of the picture that each noise stands for."""
    drawn = [render_layout(*pair) for pair in zip(scenes, layouts(noise), strict=True)]
    x = torch.from_numpy(np.stack(drawn)).to(DEVICE).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.autocast(DEVICE, torch.bfloat16):
        mean = vae.encode(x).latent_dist.mean
    return mean.float() * vae.config.scaling_factor
