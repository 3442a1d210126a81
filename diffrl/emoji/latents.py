"""A bank of encoded renders, so that the student never waits for the renderer or the VAE."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffrl.emoji.pairing import Pairing
from diffrl.emoji.train_clip import tokens
from diffrl.emoji.train_vae import load_vae
from diffrl.emoji.training import DEVICE, SHARES, log, training_scenes
from diffrl.emoji.world import Scene, article, caption

RENDERS = {"bare": 192, "color": 20, "place": 20, "count": 9, "pair": 6}
"""Renders per scene of each kind."""


@dataclass
class Bank:
    """Latents [n, 4, 16, 16] (scaled) grouped by scene, and what each scene's caption encodes to.

    `first[i]` to `first[i + 1]` are the rows of scene i; `text[i]` is [16, 128]; `share[i]` is
    the probability of drawing scene i.
    """

    latents: Tensor
    first: np.ndarray
    text: Tensor
    share: np.ndarray

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, Tensor, Tensor]:
        """Scene numbers, one latent of each, and the text states [count, 16, 128]."""
        which = rng.choice(len(self.share), size=count, p=self.share)
        rows = rng.integers(self.first[which], self.first[which + 1])
        return which, self.latents[rows].float(), self.text[which]


def bank_scenes() -> tuple[list[Scene], list[str], list[float]]:
    """Training scenes, their captions and probabilities; bare names also with an article."""
    drawn, texts, share = [], [], []
    for kind, weight in SHARES.items():
        pool = training_scenes(kind)
        forms = [(caption, 0.8), (lambda s: article(caption(s)), 0.2)] if kind == "bare" else []
        for form, part in forms or [(caption, 1.0)]:
            drawn += pool
            texts += [form(scene) for scene in pool]
            share += [weight * part / len(pool)] * len(pool)
    return drawn, texts, share


@torch.no_grad()
def make_bank(out: Path, scale: float = 1.0) -> None:
    """Renders and encodes all the student trains on, into `out/stages/bank.safetensors`."""
    pairing, noise = Pairing(load_vae(out)), torch.Generator().manual_seed(6)
    drawn, texts, share = bank_scenes()
    sizes = [max(2, int(RENDERS[s.kind] * min(1.0, 4 * scale))) for s in drawn]
    flat = [scene for scene, size in zip(drawn, sizes, strict=True) for _ in range(size)]
    parts = []
    for start in range(0, len(flat), 256):
        part = flat[start : start + 256]
        parts.append(pairing.encoded(part, torch.randn((len(part), 3), generator=noise)).half())
    latents = torch.cat(parts)
    log.info("bank: %d scenes, %d latents, std %.3f", len(drawn), len(flat), latents.float().std())
    kept = {
        "latents": latents.contiguous(),
        "first": torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)])),
        "text": encode(out, texts),
        "share": torch.tensor(share, dtype=torch.float64) / sum(share),
    }
    (out / "stages").mkdir(exist_ok=True)
    save_file(kept, out / "stages" / "bank.safetensors")


def load_bank(out: Path) -> Bank:
    """What `make_bank` wrote."""
    kept = load_file(out / "stages" / "bank.safetensors", device=DEVICE)
    first, share = kept["first"].cpu().numpy(), kept["share"].cpu().numpy()
    return Bank(kept["latents"], first, kept["text"], share)


@torch.no_grad()
def encode(out: Path, texts: list[str]) -> Tensor:
    """Text states [b, 16, 128] of captions, from the pipeline's own text encoder."""
    from transformers import CLIPTextModel, CLIPTokenizer

    encoder: Any = CLIPTextModel.from_pretrained(
        out / "pipeline" / "text_encoder", use_safetensors=True
    )
    encoder = encoder.float().to(DEVICE)
    tokenizer = CLIPTokenizer.from_pretrained(out / "pipeline" / "tokenizer")
    chunks = [texts[i : i + 512] for i in range(0, len(texts), 512)]
    states = [encoder(input_ids=tokens(tokenizer, part)).last_hidden_state for part in chunks]
    return torch.cat(states)
