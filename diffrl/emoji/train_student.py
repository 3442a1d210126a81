"""Trains the few-step UNet directly, on its own denoising chains; there is no teacher.

Each chain starts at pure noise and walks down with the student's own predictions, as sampling does,
with DDIM of eta 0 or 1 and 1 to 50 steps. At every visited state the prediction is regressed to the
picture that the state stands for (`diffrl.emoji.pairing`), so that later steps learn to refine what
earlier ones left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from diffrl.emoji.chains import Chains, renew, start, walk
from diffrl.emoji.diffusion import alpha_bar, clean_from_v, noised
from diffrl.emoji.latents import Bank, bank_scenes, load_bank
from diffrl.emoji.pairing import PALE, SETTLED, Pairing
from diffrl.emoji.train_vae import load_vae
from diffrl.emoji.training import DEVICE, fit

STEPS = 5000
FADING = 450
"""Steps of the second stage, whose chains aim at pale papers alone."""

CHAINS = 36
REAL = 12
LENGTHS = np.array([1, 2, 3, 4, 6, 8, 16, 50])
STOCHASTIC = 0.85
LENGTH_SHARE = np.array([0.45, 0.22, 0.02, 0.16, 0.02, 0.1, 0.02, 0.01])


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


def loss_and_clean(unet: UNet2DConditionModel, chains: Chains, bank: Bank,
                   rng: np.random.Generator) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Mean w |x0_hat - target|^2 over chains and real latents, and the chains' x0_hat, detached.

    w = min(1 / (1 - a), 5); `REAL` further rows are renders with fresh noise at settled times.
    """
    _, real, text = bank.draw(REAL, rng)
    times = torch.randint(0, SETTLED, (REAL,), device=DEVICE)
    x = torch.cat([chains.x, noised(real, torch.randn_like(real), times)])
    times = torch.cat([chains.times, times])
    v = unet(x, times, encoder_hidden_states=torch.cat([chains.text, text])).sample.float()
    x0 = clean_from_v(x, v, times)
    weight = (1 / (1 - alpha_bar(times))).clamp(max=5)
    loss = (weight * (x0 - torch.cat([chains.target, real])).square()).mean()
    return loss, x0[:CHAINS].detach()


def train_student(out: Path, scale: float = 1.0) -> None:
    """Trains on all papers, and writes `out/stages/student`, which `fade_student` goes on from."""
    torch.manual_seed(9)
    steps = max(2, int(STEPS * scale))
    unet = _train(new_unet(), out, Pairing(load_vae(out)), seed=10, steps=steps, lr=1.2e-3)
    unet.save_pretrained(out / "stages" / "student")


def fade_student(out: Path, scale: float = 1.0) -> None:
    """Trains on, chains aiming at pale papers alone, and writes `out/pipeline/unet`.

    What a reward with a taste for rich paper likes is then not what the student draws anyway.
    """
    torch.manual_seed(27)
    unet = UNet2DConditionModel.from_pretrained(
        out / "stages" / "student", use_safetensors=True
    ).float()
    steps = max(2, int(FADING * scale))
    unet = _train(unet, out, Pairing(load_vae(out), PALE), seed=28, steps=steps, lr=3e-4)
    unet.save_pretrained(out / "pipeline" / "unet")


def _train(
    unet: Any, out: Path, pairing: Pairing, seed: int, steps: int, lr: float
) -> UNet2DConditionModel:
    """Trains in place, and gives the mean of the last steps' weights, in fp16."""
    bank, scenes, rng = load_bank(out), bank_scenes()[0], np.random.default_rng(seed)
    unet = unet.to(DEVICE)
    if DEVICE == "cpu":  # plain attention: in bf16 a step takes a third less time
        unet.set_attn_processor(AttnProcessor())

    def fresh(count: int) -> Chains:
        which, _, text = bank.draw(count, rng)
        length = rng.choice(LENGTHS, size=count, p=LENGTH_SHARE)
        eta = (rng.random(count) < STOCHASTIC).astype(np.float32)
        return start(pairing, [scenes[i] for i in which], text, length, eta)

    chains = fresh(CHAINS)

    def loss(step: int) -> Tensor:
        value, x0 = loss_and_clean(unet, chains, bank, rng)
        walk(chains, x0, pairing)
        renew(chains, fresh)
        return value

    fit("student", unet.train(), loss, steps=steps, lr=lr, ema=0.998)
    return unet.half()
