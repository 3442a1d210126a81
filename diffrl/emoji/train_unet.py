"""Trains the teacher: an ordinary text-conditional v-prediction diffusion model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from diffrl.emoji.diffusion import alpha_bar, noised
from diffrl.emoji.latents import Bank, load_bank
from diffrl.emoji.training import DEVICE, fit

STEPS = 2000
BATCH = 48
AT_START = 8
"""Rows of each batch at time 999, their noise paired with the nearest picture of the scene."""


def new_unet() -> UNet2DConditionModel:
    """An untrained UNet of 2.7 million weights, cross-attention at 8 x 8 and 16 x 16.

    At 16 x 16 both attentions look at the text: detail is there for a LoRA to steer, without
    the cost of self-attention between 256 places.
    """
    make: Any = UNet2DConditionModel  # whose annotations allow one block only
    return make(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 96),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        only_cross_attention=(True, False),
        attention_head_dim=(2, 3),
        norm_num_groups=16,
        cross_attention_dim=128,
    )


def fast_to_train(unet: Any) -> UNet2DConditionModel:
    """Moves to `DEVICE`, with plain attention: on CPU in bf16 a step takes a third less time."""
    if DEVICE == "cpu":
        unet.set_attn_processor(AttnProcessor())
    return unet.to(DEVICE)


def velocity_loss(unet: UNet2DConditionModel, x0: Tensor, noise: Tensor, t: Tensor,
                  text: Tensor) -> Tensor:  # fmt: skip
    """Mean |v(x_t, t, text) - (sqrt(a) noise - sqrt(1 - a) x0)|^2."""
    a = alpha_bar(t)
    v = unet(noised(x0, noise, t), t, encoder_hidden_states=text).sample
    return F.mse_loss(v.float(), a.sqrt() * noise - (1 - a).sqrt() * x0)


def train_teacher(out: Path, scale: float = 1.0) -> None:
    """Trains and writes `out/stages/teacher`; a tenth of the captions are dropped."""
    torch.manual_seed(7)
    bank, rng = load_bank(out), np.random.default_rng(8)
    unet = fast_to_train(new_unet())

    def loss(step: int) -> Tensor:
        x0, noise, t, text = _batch(bank, rng)
        return velocity_loss(unet, x0, noise, t, text)

    fit("teacher", unet, loss, steps=max(2, int(STEPS * scale)), lr=1.2e-3, ema=0.998)
    unet.half().save_pretrained(out / "stages" / "teacher")


def _batch(bank: Bank, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    which, x0, text = bank.draw(BATCH, rng)
    noise = torch.randn_like(x0)
    x0[:AT_START] = bank.nearest(which[:AT_START], noise[:AT_START])
    t = torch.randint(0, 1000, (BATCH,), device=DEVICE)
    t[:AT_START] = 999
    drop = torch.rand(BATCH, device=DEVICE) < 0.1
    return x0, noise, t, torch.where(drop[:, None, None], bank.empty, text)
