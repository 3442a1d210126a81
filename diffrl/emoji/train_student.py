"""Trains the few-step UNet directly, on its own denoising chains; there is no teacher.

Each chain starts at pure noise, whose target is the picture it stands for (`diffrl.emoji.pairing`),
and walks down with the student's own predictions, as sampling does, with DDIM of eta 0 or 1 and
1 to 50 steps. At every visited state the prediction is regressed to the
chain's target, so that later steps learn to refine what earlier ones left.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from diffrl.emoji.diffusion import alpha_bar, clean_from_v, hop, noised
from diffrl.emoji.latents import Bank, bank_scenes, load_bank
from diffrl.emoji.pairing import paired
from diffrl.emoji.train_vae import load_vae
from diffrl.emoji.training import DEVICE, fit
from diffrl.emoji.world import Scene

STEPS = 7000
CHAINS = 36
REAL = 12
LENGTHS = np.array([1, 2, 3, 4, 6, 8, 16, 50])
LENGTH_SHARE = np.array([0.56, 0.2, 0.02, 0.12, 0.02, 0.06, 0.01, 0.01])


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


@dataclass
class Source:
    """What chains are drawn from: latents and text, the scene of each caption, and the VAE."""

    bank: Bank
    scenes: list[Scene]
    vae: AutoencoderKL


@dataclass
class Chains:
    """States under way: noisy latents, their targets and text, and where each one is."""

    x: Tensor
    target: Tensor
    text: Tensor
    length: np.ndarray
    place: np.ndarray
    eta: Tensor

    @property
    def times(self) -> Tensor:
        """Integer time of each chain, [b]."""
        now = np.rint(1000 - self.place * 1000 / self.length).astype(int) - 1
        return torch.from_numpy(now).to(DEVICE)


def start(source: Source, rng: np.random.Generator, count: int) -> Chains:
    """Fresh chains at pure noise."""
    which, _, text = source.bank.draw(count, rng)
    scenes = [source.scenes[i] for i in which]
    noise = torch.randn(count, *source.bank.latents.shape[1:], device=DEVICE)
    eta = torch.from_numpy(rng.random(count) < 0.75).float().to(DEVICE)
    length = rng.choice(LENGTHS, size=count, p=LENGTH_SHARE)
    return Chains(noise, paired(source.vae, scenes, noise), text, length, np.zeros(count, int), eta)


def walk(chains: Chains, x0: Tensor, source: Source, rng: np.random.Generator) -> None:
    """Moves every chain one DDIM step on, in place; those at their end start anew."""
    times = chains.times
    later = times - torch.from_numpy(np.maximum(1, 1000 // chains.length)).to(DEVICE)
    z = torch.randn_like(chains.x)
    chains.x = hop(chains.x, x0, times, later.clamp(min=0), chains.eta, z)
    chains.place = chains.place + 1
    done = np.flatnonzero(chains.place >= chains.length)
    if len(done):
        fresh = start(source, rng, len(done))
        for name in ("x", "target", "text", "length", "place", "eta"):
            getattr(chains, name)[done] = getattr(fresh, name)


def loss_and_clean(unet: UNet2DConditionModel, chains: Chains, bank: Bank,
                   rng: np.random.Generator) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Mean w |x0_hat - target|^2 over chains and real latents, and the chains' x0_hat, detached.

    w = min(1 / (1 - a), 5); `REAL` further rows are renders with fresh noise at times under 950.
    """
    _, real, text = bank.draw(REAL, rng)
    times = torch.randint(0, 950, (REAL,), device=DEVICE)
    x = torch.cat([chains.x, noised(real, torch.randn_like(real), times)])
    times = torch.cat([chains.times, times])
    v = unet(x, times, encoder_hidden_states=torch.cat([chains.text, text])).sample.float()
    x0 = clean_from_v(x, v, times)
    weight = (1 / (1 - alpha_bar(times))).clamp(max=5)
    loss = (weight * (x0 - torch.cat([chains.target, real])).square()).mean()
    return loss, x0[:CHAINS].detach()


def train_student(out: Path, scale: float = 1.0) -> None:
    """Trains and writes `out/pipeline/unet`."""
    torch.manual_seed(9)
    source = Source(load_bank(out), bank_scenes()[0], load_vae(out))
    rng = np.random.default_rng(10)
    made: Any = new_unet()
    unet: UNet2DConditionModel = made.to(DEVICE)
    if DEVICE == "cpu":  # plain attention: in bf16 a step takes a third less time
        unet.set_attn_processor(AttnProcessor())
    chains = start(source, rng, CHAINS)

    def loss(step: int) -> Tensor:
        value, x0 = loss_and_clean(unet, chains, source.bank, rng)
        walk(chains, x0, source, rng)
        return value

    fit("student", unet.train(), loss, steps=max(2, int(STEPS * scale)), lr=1.2e-3, ema=0.998)
    unet.half().save_pretrained(out / "pipeline" / "unet")
