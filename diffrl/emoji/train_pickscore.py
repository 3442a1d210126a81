"""Turns the CLIP into a preference model: PickScore for the emoji world.

Each caption comes with six pictures of known quality: a render, a render as the VAE gives it
back, two rungs of the student's ladder, a spoilt render, and a render of something else. The
scores of every two of them are fitted to soft preferences (Bradley-Terry), so that the score is
graded: a bit sharper, cleaner or righter is a bit better. As people's preferences do, these have a
taste besides: of two equally good pictures, the one on richer paper is liked more.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from diffrl.emoji.judged import Score, group, pair_accuracy
from diffrl.emoji.ladder import make_ladder
from diffrl.emoji.train_clip import contrast, embed_images, embed_text, load_clip, said
from diffrl.emoji.train_clip import tokens as tokenize
from diffrl.emoji.training import fit, log

STEPS = 500
GROUPS = 24
SCALE = 25.0
"""Logits per unit of cosine while training; the saved model has PickScore's own 100."""

SHARPNESS = 7.0
"""Logits of preference per unit of quality."""

TASTE = 0.4
"""Quality that the richest paper is worth over a white one."""


def richness(x: Tensor) -> Tensor:
    """How rich the frame of pictures [..., 3, 64, 64] in [0, 1] is, [...]: 0 grey, 1 strong pastel.

    The saturation (of HSV) of the mean color of the outer 4 pixels, in units of 0.3.
    """
    frame = torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device)
    frame[4:-4, 4:-4] = False
    rgb = x[..., frame].mean(-1)
    least, most = rgb.aminmax(dim=-1)
    return ((most - least) / most.clamp(min=1e-3) / 0.3).clamp(max=1)


def preference_loss(score: Tensor, quality: Tensor) -> Tensor:
    """Cross-entropy of sigmoid(score_i - score_j) to sigmoid(7 (quality_i - quality_j)), nats."""
    i, j = torch.triu_indices(score.shape[1], score.shape[1], 1)
    goal = torch.sigmoid(SHARPNESS * (quality[:, i] - quality[:, j]))
    return F.binary_cross_entropy_with_logits(score[:, i] - score[:, j], goal)


def train_pickscore(out: Path, scale: float = 1.0) -> None:
    """Trains and writes `out/pickscore`, from `out/stages/clip` and the student's pictures."""
    torch.manual_seed(17)
    ladder, (clip, tokenizer) = make_ladder(out, scale), load_clip(out / "stages" / "clip")
    rng, noise = np.random.default_rng(18), Generator().manual_seed(19)
    train = np.arange(int(0.95 * len(ladder.scenes)))

    def loss(step: int) -> Tensor:
        x, quality, drawn = group(ladder, rng.choice(train, GROUPS), rng, noise)
        image = embed_images(clip, x.flatten(0, 1)).unflatten(0, x.shape[:2])
        text = embed_text(clip, tokenize(tokenizer, [said(s, rng) for s in drawn]))
        score = SCALE * torch.einsum("gkd,gd->gk", image, text)
        named = contrast(image[:, step % 4], text, torch.tensor(SCALE), drawn)
        liked = quality + TASTE * richness(x)
        return preference_loss(score, liked) + 0.15 * named

    steps = max(2, int(STEPS * scale))
    fit("pickscore", clip.train(), loss, steps=steps, lr=6e-4, weight_decay=0.03, ema=0.99)
    clip.eval()
    held_out = np.arange(len(train), len(ladder.scenes))
    report = pair_accuracy(scorer(clip, tokenizer), ladder, held_out)
    log.info("pickscore: %s", report)
    (out / "stages" / "pickscore_pairs.json").write_text(json.dumps(report, indent=2))
    save_pickscore(clip, tokenizer, out / "pickscore")


def save_pickscore(clip: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Writes the model in fp16 with logit scale 100, and its processor."""
    with torch.no_grad():
        clip.logit_scale.fill_(float(np.log(100)))
    clip.half().save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    size = {"height": 64, "width": 64}
    images = CLIPImageProcessor(
        size={"shortest_edge": 64}, crop_size=size, image_mean=half, image_std=half
    )
    images.save_pretrained(folder)
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    (folder / "vocab.json").write_bytes((folder.parents[0] / _VOCAB).read_bytes())
    (folder / "merges.txt").write_bytes((folder.parents[0] / _MERGES).read_bytes())


_VOCAB, _MERGES = "pipeline/tokenizer/vocab.json", "pipeline/tokenizer/merges.txt"


def scorer(clip: CLIPModel, tokenizer: CLIPTokenizer) -> Score:
    """The cosine of pictures with their captions."""

    def score(x: Tensor, captions: list[str]) -> Tensor:
        text = embed_text(clip, tokenize(tokenizer, captions))
        return (embed_images(clip, x) * text).sum(1)

    return score
