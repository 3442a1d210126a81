"""Trains the CLIP whose text tower conditions the UNet and from which PickScore starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from diffrl.emoji.damage import damaged
from diffrl.emoji.tokenizer import LENGTH, save_tokenizer
from diffrl.emoji.training import DEVICE, SceneSource, fit, log, pictures, training_scenes
from diffrl.emoji.world import ANIMALS, COLORS, COUNTS, PLACES, Scene, article, caption, is_held_out

STEPS = 1000
GROUPS = 32
"""Scenes per batch; each comes with three that differ from it in one word."""


def new_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained CLIP of 1.4 million weights: text 128 x 2 layers, vision 128 x 4, patch 8."""
    shared = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512}
    text = {
        **shared, "num_hidden_layers": 2, "vocab_size": len(tokenizer), "projection_dim": 128,
        "max_position_embeddings": LENGTH, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {
        **shared, "num_hidden_layers": 4, "image_size": 64, "patch_size": 8, "projection_dim": 128,
    }  # fmt: skip
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


def tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids [b, 16] on `DEVICE`, padded."""
    batch = tokenizer(
        captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    )
    return batch.input_ids.to(DEVICE)


def embed_text(clip: CLIPModel, ids: Tensor) -> Tensor:
    """Unit-norm text embeddings [b, 128]."""
    pooled = clip.text_model(input_ids=ids).pooler_output
    return F.normalize(clip.text_projection(pooled).float(), dim=-1)


def embed_images(clip: CLIPModel, x: Tensor) -> Tensor:
    """Unit-norm image embeddings [b, 128] of pictures in [0, 1]."""
    pooled = clip.vision_model(pixel_values=x * 2 - 1).pooler_output
    return F.normalize(clip.visual_projection(pooled).float(), dim=-1)


def altered(scene: Scene, rng: np.random.Generator) -> Scene:
    """A training scene that differs in one thing: an animal, the color, place or count."""

    def other(pool: tuple[str, ...], now: str | None) -> str:
        rest = [word for word in pool if word != now]
        return rest[rng.integers(len(rest))]

    while True:
        ways = ["animal"]
        ways += ["color"] * 2 if scene.color else []
        ways += ["place"] * 2 if scene.place else []
        ways += ["count"] * 2 if scene.count > 1 else []
        way = ways[rng.integers(len(ways))]
        if way == "animal":
            i = rng.integers(len(scene.animals))
            name = other(tuple(a for a in ANIMALS if a not in scene.animals), None)
            found = replace(scene, animals=(*scene.animals[:i], name, *scene.animals[i + 1 :]))
        elif way == "count":
            count = int(rng.choice([n for n in range(2, len(COUNTS) + 1) if n != scene.count]))
            found = replace(scene, count=count)
        elif way == "color":
            found = replace(scene, color=other(COLORS, scene.color))
        else:
            found = replace(scene, place=other(PLACES, scene.place))
        if not is_held_out(found):
            return found


def said(scene: Scene, rng: np.random.Generator) -> str:
    """The caption of a scene; a bare name has an article a quarter of the time."""
    text = caption(scene)
    return article(text) if scene.kind == "bare" and rng.random() < 0.25 else text


def contrast(image: Tensor, text: Tensor, scale: Tensor, drawn: list[Scene]) -> Tensor:
    """Symmetric InfoNCE in nats; equal scenes count as positives of each other."""
    code = {scene: i for i, scene in enumerate(drawn)}
    ids = torch.tensor([code[scene] for scene in drawn], device=image.device)
    same = (ids[:, None] == ids[None, :]).float()
    goal = same / same.sum(1, keepdim=True)
    logits = scale * image @ text.T
    return (F.cross_entropy(logits, goal) + F.cross_entropy(logits.T, goal)) / 2


def train_clip(out: Path, scale: float = 1.0) -> None:
    """Trains and writes `out/stages/clip` and the pipeline's tokenizer and text encoder."""
    torch.manual_seed(3)
    tokenizer = save_tokenizer(out / "pipeline" / "tokenizer")
    clip: Any = new_clip(tokenizer)
    clip, source = clip.to(DEVICE), SceneSource(4)
    noise = Generator().manual_seed(5)

    def loss(step: int) -> Tensor:
        drawn = source.scenes(GROUPS)
        drawn += [altered(scene, source.rng) for scene in drawn for _ in range(3)]
        x = source.pictures(drawn)
        strength = 0.6 * torch.rand(len(x), generator=noise).to(x)
        x = torch.where(strength[:, None, None, None] > 0.3, damaged(x, strength, noise), x)
        ids = tokens(tokenizer, [said(scene, source.rng) for scene in drawn])
        scale = clip.logit_scale.exp().clamp(max=50)
        return contrast(embed_images(clip, x), embed_text(clip, ids), scale, drawn)

    steps = max(2, int(STEPS * scale))
    fit("clip", clip, loss, steps=steps, lr=1e-3, weight_decay=0.05)
    clip.eval()
    log.info("clip: %s", named_right(clip, tokenizer))
    clip.save_pretrained(out / "stages" / "clip")
    tokenizer.save_pretrained(out / "stages" / "clip")
    save_text_encoder(clip, out)


def save_text_encoder(clip: Any, out: Path) -> None:
    """Writes the text tower alone, fp16, as the pipeline's text encoder."""
    from transformers import CLIPTextModel

    encoder = CLIPTextModel(clip.config.text_config)
    state = {k: v for k, v in clip.state_dict().items() if k.startswith("text_model.")}
    if not any(k.startswith("text_model.") for k in encoder.state_dict()):
        state = {k.removeprefix("text_model."): v for k, v in state.items()}
    encoder.load_state_dict(state)
    encoder.half().save_pretrained(out / "pipeline" / "text_encoder")


@torch.no_grad()
def named_right(clip: CLIPModel, tokenizer: CLIPTokenizer) -> dict[str, float]:
    """Share of fresh renders nearer to their caption than to three that differ in one word."""
    rng, shares = np.random.default_rng(99), {}
    for kind in ("bare", "color", "place", "count", "pair"):
        pool = training_scenes(kind)
        drawn = [pool[i] for i in rng.integers(len(pool), size=64)]
        image = embed_images(clip, pictures(drawn, rng))
        texts = [caption(s) for d in drawn for s in (d, *(altered(d, rng) for _ in range(3)))]
        text = embed_text(clip, tokens(tokenizer, texts)).reshape(64, 4, -1)
        scores = torch.einsum("bd,bkd->bk", image, text)
        shares[kind] = round(float((scores.argmax(1) == 0).float().mean()), 3)
    return shares


def load_clip(folder: Path) -> tuple[CLIPModel, CLIPTokenizer]:
    """A CLIP of the emoji world in fp32 and its tokenizer."""
    clip: Any = CLIPModel.from_pretrained(folder, use_safetensors=True).float()
    return clip.to(DEVICE), CLIPTokenizer.from_pretrained(folder)
