"""Trains the aesthetic head: linear layers on PickScore's unit-norm image embedding.

The rating it learns is 3 + 3.5 x quality (of the render, its damage or its rung of the ladder)
+ 2 x colorfulness, a taste of its own that the caption has no say in: about 1 to 9.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn

from diffrl.emoji.judged import group
from diffrl.emoji.ladder import make_ladder
from diffrl.emoji.train_clip import embed_images, load_clip
from diffrl.emoji.training import DEVICE, fit, log

STEPS = 1500
WIDTHS = (128, 64, 32, 16, 16, 1)


class AestheticHead(nn.Module):
    """Linear layers without activations, keyed `layers.0.weight` … as the LAION head's."""

    def __init__(self) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for i, (wide, narrow) in enumerate(itertools.pairwise(WIDTHS)):
            modules.append(nn.Linear(wide, narrow))
            if i < 3:
                modules.append(nn.Dropout((0.2, 0.2, 0.1)[i]))
        self.layers = nn.Sequential(*modules)

    def forward(self, embedding: Tensor) -> Tensor:
        """Scores [b, 1] of unit-norm embeddings [b, 128]."""
        return self.layers(embedding)


def colorfulness(x: Tensor) -> Tensor:
    """Hasler and Süsstrunk's colorfulness, [b], of pictures in [0, 1]; about 0 to 0.7."""
    r, g, b = x.unbind(1)
    rg, yb = r - g, (r + g) / 2 - b
    std = (rg.var((1, 2)) + yb.var((1, 2))).sqrt()
    mean = (rg.mean((1, 2)).square() + yb.mean((1, 2)).square()).sqrt()
    return std + 0.3 * mean


def rating(x: Tensor, quality: Tensor) -> Tensor:
    """The rating to learn, [b]."""
    return 3 + 3.5 * quality + 2 * (colorfulness(x) / 0.35).clamp(max=1.5)


@torch.no_grad()
def _examples(out: Path, scale: float) -> tuple[Tensor, Tensor]:
    """Embeddings [n, 128] and ratings [n]; pictures of something else count as clean ones."""
    ladder, (clip, _) = make_ladder(out, scale, seed=23), load_clip(out / "pickscore")
    rng, noise = np.random.default_rng(24), Generator().manual_seed(25)
    embedded, rated = [], []
    for rows in np.array_split(np.arange(len(ladder.scenes)), max(1, len(ladder.scenes) // 64)):
        x, quality, _ = group(ladder, rows, rng, noise)
        quality[:, 5] = 1.0
        flat = x.flatten(0, 1)
        embedded.append(embed_images(clip, flat))
        rated.append(rating(flat, quality.flatten()))
    return torch.cat(embedded), torch.cat(rated)


def train_aesthetic(out: Path, scale: float = 1.0) -> None:
    """Trains and writes `out/aesthetic.safetensors`."""
    torch.manual_seed(26)
    embedding, rated = _examples(out, 0.5 * scale)
    order = torch.randperm(len(rated))
    held_out, train = order[: len(order) // 10], order[len(order) // 10 :]
    head = AestheticHead().to(DEVICE)
    nn.init.constant_(head.layers[-1].get_parameter("bias"), float(rated.mean()))

    def loss(step: int) -> Tensor:
        rows = train[torch.randint(len(train), (512,))]
        with torch.autocast(DEVICE, enabled=False):
            return F.mse_loss(head(embedding[rows])[:, 0], rated[rows])

    fit("aesthetic", head, loss, steps=max(2, int(STEPS * scale)), lr=3e-3, weight_decay=1e-3)
    head.eval()
    with torch.no_grad():
        error = (head(embedding[held_out])[:, 0] - rated[held_out]).square().mean()
    log.info("aesthetic: held-out R2 %.3f", 1 - float(error / rated[held_out].var()))
    state = {k: v.detach().contiguous().cpu() for k, v in head.state_dict().items()}
    save_file(state, out / "aesthetic.safetensors")


def load_head(out: Path) -> AestheticHead:
    """The trained head."""
    head = AestheticHead()
    head.load_state_dict(load_file(out / "aesthetic.safetensors"))
    return head.to(DEVICE).eval().requires_grad_(False)
