"""The student's own pictures and their way to a clean one, for the rewards to rate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Generator, Tensor

from diffrl.emoji.chains import start, walk
from diffrl.emoji.diffusion import denoiser
from diffrl.emoji.latents import encode
from diffrl.emoji.pairing import PALE, Pairing
from diffrl.emoji.train_vae import load_vae
from diffrl.emoji.training import DEVICE, SceneSource
from diffrl.emoji.world import Scene, caption

COUNT = 3000
RUNGS = (0.0, 0.35, 0.7, 1.0)
"""How far each rung is from the generated latent to that of the render it stands for."""

STEP_CHOICES = (1, 2, 4, 8)


@dataclass
class Ladder:
    """Pictures uint8 [n, rungs, 3, 64, 64], their quality [n, rungs] in [0, 1] and their scenes.

    The last rung is a render as the VAE gives it back; the first is what the student made.
    """

    pictures: Tensor
    quality: Tensor
    scenes: list[Scene]


@torch.no_grad()
def make_ladder(out: Path, scale: float = 1.0, seed: int = 16) -> Ladder:
    """Generates with 1, 2, 4 or 8 stochastic steps and climbs to the chain's target."""
    noise, source = Generator().manual_seed(seed), SceneSource(seed)
    unet: Any = UNet2DConditionModel.from_pretrained(
        out / "pipeline" / "unet", use_safetensors=True
    ).float()
    unet, vae, pictures = unet.to(DEVICE).eval(), load_vae(out), []
    scenes = source.scenes(64 * max(1, int(COUNT * scale) // 64))
    texts, pairing = encode(out, [caption(scene) for scene in scenes]), Pairing(vae, PALE)
    for i, begin in enumerate(range(0, len(scenes), 64)):
        text, drawn = texts[begin : begin + 64], scenes[begin : begin + 64]
        length = np.full(64, STEP_CHOICES[i % len(STEP_CHOICES)])
        chains = start(pairing, drawn, text, length, np.ones(64, np.float32), noise)
        while (chains.place < chains.length).any():
            with torch.autocast(DEVICE, torch.bfloat16):
                x0 = denoiser(unet, text)(chains.x, chains.times)
            walk(chains, x0, pairing, noise)
        rungs = [_decoded(vae, chains.x.lerp(chains.target, part)) for part in RUNGS]
        pictures.append(torch.stack(rungs, 1))
    shown = torch.cat(pictures)
    return Ladder(shown, _quality(shown), scenes)


def _decoded(vae: Any, latents: Tensor) -> Tensor:
    with torch.autocast(DEVICE, torch.bfloat16):
        x = vae.decode(latents / vae.config.scaling_factor).sample
    return ((x.float() / 2 + 0.5).clamp(0, 1) * 255).round().byte().cpu()


def _quality(pictures: Tensor) -> Tensor:
    """0.97 exp(-ln 2 d / median): d is the L1 distance of a rung's gradients to the last rung's.

    The median is that of the first rung, so that half of the generated pictures lie under 0.49.
    """
    distance = torch.cat([_distance(part.float() / 255) for part in pictures.split(64)])
    return 0.97 * torch.exp2(-distance / distance[:, 0].median())


def _distance(x: Tensor) -> Tensor:
    """Mean absolute difference of each rung's gradients to the last rung's, [n, rungs]."""
    across, down = ((g - g[:, -1:]).abs() for g in (x.diff(dim=3), x.diff(dim=4)))
    return across.mean((2, 3, 4)) + down.mean((2, 3, 4))
