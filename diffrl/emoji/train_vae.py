"""Trains the AutoencoderKL: pictures [3, 64, 64] to latents [4, 16, 16] and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from diffrl.emoji.training import DEVICE, SceneSource, fit, log

STEPS = 2500
BATCH = 32
HELD_OUT_SEED = 10_000


def new_vae() -> Any:
    """An untrained AutoencoderKL of 1.4 million weights."""
    make: Any = AutoencoderKL  # whose annotations allow one block only
    return make(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 48, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def train_vae(out: Path, scale: float = 1.0) -> None:
    """Trains and writes `out/pipeline/vae`: 32 px crops for 85 % of the steps, then full size."""
    torch.manual_seed(0)
    vae, source, steps = new_vae().to(DEVICE), SceneSource(1), max(2, int(STEPS * scale))
    crops = int(0.85 * steps)

    def loss(step: int) -> Tensor:
        x = source.pictures(source.scenes(BATCH)) * 2 - 1
        if step < crops:
            y0, x0 = source.rng.integers(0, 33, size=2)
            x = x[..., y0 : y0 + 32, x0 : x0 + 32]
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample.float()
        return _distance(y, x) + 1e-3 * posterior.kl().float().mean() / posterior.mean[0].numel()

    fit("vae", vae, loss, steps=steps, lr=2e-3, ema=0.997)
    vae.eval()
    vae.register_to_config(scaling_factor=_scaling_factor(vae))
    log.info("vae: %.2f dB, scaling factor %.3f", psnr(vae), vae.config.scaling_factor)
    vae.half().save_pretrained(out / "pipeline" / "vae")


def _distance(y: Tensor, x: Tensor) -> Tensor:
    """L1 + 0.5 L1 of the picture's gradients + 4 MSE."""
    edges = sum(F.l1_loss(y.diff(dim=d), x.diff(dim=d)) for d in (2, 3))
    return F.l1_loss(y, x) + 0.5 * edges + 4 * F.mse_loss(y, x)


@torch.no_grad()
def _scaling_factor(vae: Any) -> float:
    source = SceneSource(2)
    latents = vae.encode(source.pictures(source.scenes(256)) * 2 - 1).latent_dist.mean
    return round(float(1 / latents.std()), 4)


@torch.no_grad()
def psnr(vae: Any, count: int = 256) -> float:
    """Mean PSNR in dB of reconstructed held-out renders."""
    source = SceneSource(HELD_OUT_SEED)
    x = source.pictures(source.scenes(count))
    y = (vae.decode(vae.encode(x * 2 - 1).latent_dist.mean).sample / 2 + 0.5).clamp(0, 1)
    return float((-10 * (x - y).square().mean((1, 2, 3)).log10()).mean())


def load_vae(out: Path) -> Any:
    """The trained VAE, fp32, frozen."""
    vae: Any = AutoencoderKL.from_pretrained(out / "pipeline" / "vae", use_safetensors=True).float()
    return vae.to(DEVICE).eval().requires_grad_(False)
