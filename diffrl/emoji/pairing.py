"""Which picture a noisy state should become: a rule the student can learn for every caption.

Three numbers choose the paper: two its chroma, one its light. Each is read off the state by one
fixed projection and whitened; the projections are the directions along which encoded papers
themselves vary. So pure noise has one picture per caption, all papers stay equally likely, a single
step need not average over them, and a state with much fresh noise on top of a picture is asked for
what it now looks like, not for what its first noise stood for. The rule does not look at the
caption, hence carries over to captions never seen.

Animals stand where the middle of their jitter is. A state with fresh noise on it shows a place only
within a pixel or so, and a student that is asked for places averages edges over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffrl.emoji.diffusion import alpha_bar
from diffrl.emoji.render import Layout, render_layout
from diffrl.emoji.training import DEVICE, training_scenes
from diffrl.emoji.world import Scene

SETTLED = 500
"""Times below this one show their paper clearly: the target no longer changes."""

PALE = 0.5
"""Depth of the deepest paper that the finished student draws on."""

SAMPLES = 1000
"""Renders from which the projections are fitted."""


def layout(z: Tensor, richest: float = 1.0) -> list[Layout]:
    """Layouts of standard normal coordinates [b, 3]: papers equally likely, nothing moved.

    Papers are as deep as `richest` at most.
    """
    hue = torch.atan2(z[:, 0], z[:, 1]) / (2 * np.pi) + 0.5
    depth = richest * (1 - torch.exp(-z[:, :2].square().sum(1) / 2))
    light = torch.special.ndtr(z[:, 2])
    return [Layout(0.5, 0.5, *row) for row in torch.stack([hue, depth, light], 1).tolist()]


class Pairing:
    """Reads coordinates off states, and encodes the pictures they stand for.

    `richest` is the depth of the deepest paper.
    """

    def __init__(self, vae: Any, richest: float = 1.0) -> None:
        self.vae, self.richest = vae, richest
        z = torch.randn((SAMPLES, 3), generator=torch.Generator().manual_seed(8))
        bare = training_scenes("bare")
        scenes = [bare[i % len(bare)] for i in range(SAMPLES)]
        latents = torch.cat([
            self.encoded(scenes[i : i + 100], z[i : i + 100]) for i in range(0, SAMPLES, 100)
        ])  # fmt: skip
        paper, ones = _paper(latents).cpu(), torch.ones(SAMPLES, 1)
        slopes = torch.linalg.lstsq(torch.cat([z, ones], 1), paper).solution
        u, _, v = torch.linalg.svd(slopes[:3], full_matrices=False)
        ways = u @ v  # the orthonormal rows nearest to how papers vary
        self.ways = ways.to(DEVICE)
        self.mean = (slopes[3] @ ways.T).to(DEVICE)
        self.spread = (paper @ ways.T).std(0).to(DEVICE)

    @torch.no_grad()
    def encoded(self, scenes: Sequence[Scene], z: Tensor) -> Tensor:
        """Scaled latents [b, 4, 16, 16] of scenes laid out by coordinates [b, 3]."""
        drawn = [render_layout(*pair) for pair in zip(scenes, layout(z, self.richest), strict=True)]
        x = torch.from_numpy(np.stack(drawn)).to(DEVICE).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.autocast(DEVICE, torch.bfloat16):
            mean = self.vae.encode(x).latent_dist.mean
        return mean.float() * self.vae.config.scaling_factor

    def read(self, x: Tensor, times: Tensor) -> Tensor:
        """Coordinates [b, 3] of states [b, 4, 16, 16] at integer times [b]; 999 is pure noise."""
        a = alpha_bar(times)[:, :, 0, 0] * (times < 999)[:, None]
        side = float(_RING.sum()) ** 0.5
        paper = side * (_paper(x) @ self.ways.T - a.sqrt() * self.mean)
        return paper / (1 - a + a * (side * self.spread).square()).sqrt()


def _paper(latents: Tensor) -> Tensor:
    """Mean of each channel over the outer ring, [b, 4]."""
    return (latents * _RING).sum((2, 3)) / _RING.sum()


_RING = torch.ones(16, 16, device=DEVICE)
_RING[2:-2, 2:-2] = 0
