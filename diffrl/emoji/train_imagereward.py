"""A small BLIP as ImageReward for the emoji world: it reads the caption with the picture in view.

It learns rankings by ImageReward's loss, with no taste beside quality and truth to the caption, and
to tell the caption of a picture from others: pictures of one caption alone would not teach it to
read. The vision tower starts from the CLIP's, the text tower from its embeddings.
"""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    BlipTextConfig,
    BlipTextModel,
    BlipVisionConfig,
    BlipVisionModel,
    CLIPModel,
    CLIPTokenizer,
)

from diffrl.emoji.judged import judged, pair_accuracy
from diffrl.emoji.tokenizer import LENGTH
from diffrl.emoji.train_clip import altered, load_clip, said
from diffrl.emoji.train_hpsv2 import prepared, weights_of
from diffrl.emoji.training import DEVICE, fit, log
from diffrl.emoji.world import Scene

STEPS = 1100
GROUPS = 12
WIDTHS = (128, 64, 32, 16, 8, 1)
HEADS = 4

MARGIN = 0.1
"""Least difference of quality between two pictures that are ranked."""


class SmallImageReward(nn.Module):
    """BLIP's two towers and a linear head, 128 wide: vision of 4 layers, text of 3."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vision: Any = BlipVisionModel(
            BlipVisionConfig(
                hidden_size=128, intermediate_size=512, num_hidden_layers=4,
                num_attention_heads=HEADS, image_size=64, patch_size=8, hidden_act="gelu",
                layer_norm_eps=1e-6,
            )
        )  # fmt: skip
        self.text: Any = BlipTextModel(
            BlipTextConfig(
                vocab_size=vocabulary, hidden_size=128, encoder_hidden_size=128,
                intermediate_size=512, num_hidden_layers=3, num_attention_heads=HEADS,
                max_position_embeddings=64, hidden_act="gelu", layer_norm_eps=1e-12,
                initializer_range=128**-0.5,
                hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, is_decoder=True,
                bos_token_id=0, eos_token_id=0, sep_token_id=0, pad_token_id=0,
            ),
            add_pooling_layer=False,
        )  # fmt: skip
        wide = itertools.pairwise(WIDTHS)
        self.layers = nn.Sequential(*(nn.Linear(a, b) for a, b in wide))
        for layer in self.layers:
            nn.init.orthogonal_(layer.get_parameter("weight"))
            nn.init.zeros_(layer.get_parameter("bias"))

    def see(self, x: Tensor) -> Tensor:
        """Features [b, 65, 128] of pictures [b, 3, 64, 64] in [0, 1]."""
        return self.vision(pixel_values=prepared(x)).last_hidden_state

    def forward(self, seen: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Scores [b] of seen pictures with captions [b, n]."""
        read = self.text(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], device=seen.device),
            is_decoder=False,
        ).last_hidden_state
        with torch.autocast(DEVICE, enabled=False):
            return self.layers(read[:, 0].float()).squeeze(-1)


@torch.no_grad()
def begin_from(clip: CLIPModel, model: SmallImageReward, x: Tensor) -> None:
    """Copies the CLIP's vision tower and text embeddings.

    BLIP has no norm before its first layer. The CLIP's is folded into the embeddings: exactly for
    the class token, and for patches with the mean deviation over pictures x [b, 3, 64, 64].
    """
    theirs = weights_of(clip)
    own = _folded(theirs, x)
    names = {
        "attn.in_proj_": "self_attn.qkv.", "attn.out_proj.": "self_attn.projection.",
        "ln_1.": "layer_norm1.", "ln_2.": "layer_norm2.", "mlp.c_fc.": "mlp.fc1.",
        "mlp.c_proj.": "mlp.fc2.",
    }  # fmt: skip
    for key, value in theirs.items():
        if key.startswith("visual.transformer.resblocks."):
            name = key.replace("visual.transformer.resblocks.", "encoder.layers.")
            for old, new in names.items():
                name = name.replace(old, new)
            own[name] = value
        elif key.startswith("visual.ln_post."):
            own[key.replace("visual.ln_post.", "post_layernorm.")] = value
    model.vision.load_state_dict(own)
    embeddings = model.text.embeddings
    embeddings.word_embeddings.weight.copy_(theirs["token_embedding.weight"])
    embeddings.position_embeddings.weight[:LENGTH] = theirs["positional_embedding"]


def _folded(theirs: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """BLIP's embeddings that give what the CLIP's first norm makes of its own."""
    kernel, places = theirs["visual.conv1.weight"], theirs["visual.positional_embedding"]
    gain, shift = theirs["visual.ln_pre.weight"], theirs["visual.ln_pre.bias"]
    patches = F.conv2d(prepared(x), kernel, stride=kernel.shape[-1]).flatten(2).mT + places[1:]
    deviation = patches.std(-1, correction=0).mean()
    kernel = (kernel - kernel.mean(0)) * (gain / deviation)[:, None, None, None]
    placed = (places - places.mean(-1, keepdim=True)) * gain / deviation + shift
    placed[0] = 0
    first = theirs["visual.class_embedding"] + places[0]
    return {
        "embeddings.class_embedding": F.layer_norm(first, first.shape, gain, shift)[None, None],
        "embeddings.position_embedding": placed[None],
        "embeddings.patch_embedding.weight": kernel,
        "embeddings.patch_embedding.bias": torch.zeros_like(shift),
    }


def read(tokenizer: CLIPTokenizer, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask [b, n] on `DEVICE`, padded to the longest."""
    batch = tokenizer(
        captions, padding="longest", max_length=LENGTH, truncation=True, return_tensors="pt"
    )
    return batch.input_ids.to(DEVICE), batch.attention_mask.to(DEVICE)


def ranking_loss(score: Tensor, quality: Tensor) -> Tensor:
    """-log sigmoid(better - worse), in nats, over pairs [g, k] that differ by `MARGIN`."""
    i, j = torch.triu_indices(score.shape[1], score.shape[1], 1)
    gap = quality[:, i] - quality[:, j]
    losses = -F.logsigmoid((score[:, i] - score[:, j]) * gap.sign())
    return losses[gap.abs() >= MARGIN].mean()


def naming_loss(score: Tensor) -> Tensor:
    """Cross-entropy, in nats, of telling the caption, the first of scores [g, k], from others."""
    return F.cross_entropy(score, torch.zeros(len(score), dtype=torch.long, device=score.device))


def train_imagereward(out: Path, scale: float = 1.0) -> None:
    """Trains and writes `out/imagereward`, from `out/stages/clip` and the student's pictures."""
    torch.manual_seed(51)
    clip, tokenizer = load_clip(out / "stages" / "clip")
    groups, ladder, held_out = judged(out, scale, seed=52)
    rng = np.random.default_rng(53)
    model = SmallImageReward(len(tokenizer)).to(DEVICE)
    begin_from(clip, model, groups.draw(64, rng)[0][:, 0])

    def score(x: Tensor, captions: list[str]) -> Tensor:
        return model(model.see(x), *read(tokenizer, captions))

    def loss(step: int) -> Tensor:
        x, quality, drawn = groups.draw(GROUPS, rng)
        seen = model.see(x.flatten(0, 1))
        own = read(tokenizer, [said(scene, rng) for scene in drawn])
        ranked = model(seen, *(part.repeat_interleave(x.shape[1], 0) for part in own))
        choices = [[s, altered(s, rng), altered(s, rng), o] for s, o in pairwise_around(drawn)]
        texts = [said(scene, rng) for row in choices for scene in row]
        clean = seen.unflatten(0, x.shape[:2])[:, 0].repeat_interleave(4, 0)
        named = model(clean, *read(tokenizer, texts)).unflatten(0, (len(drawn), 4))
        return ranking_loss(ranked.unflatten(0, x.shape[:2]), quality) + naming_loss(named)

    steps = max(2, int(STEPS * scale))
    fit("imagereward", model.train(), loss, steps=steps, lr=8e-4, weight_decay=0.03, ema=0.99)
    model.eval()
    report = pair_accuracy(score, ladder, held_out)
    log.info("imagereward: %s", report)
    (out / "stages" / "imagereward_pairs.json").write_text(json.dumps(report, indent=2))
    save_imagereward(model, out / "imagereward")


def pairwise_around(drawn: list[Scene]) -> list[tuple[Scene, Scene]]:
    """Each scene with the next one, the last with the first."""
    return list(zip(drawn, [*drawn[1:], drawn[0]], strict=True))


def save_imagereward(model: SmallImageReward, folder: Path) -> None:
    """Writes the model in fp16 under the published checkpoint's key names."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {f"blip.visual_encoder.{published(k)}": v for k, v in model.vision.state_dict().items()}
    state |= {f"blip.text_encoder.{k}": v for k, v in model.text.state_dict().items()}
    state |= {f"mlp.layers.{k}": v for k, v in model.layers.state_dict().items()}
    half = {k: v.detach().half().contiguous().cpu() for k, v in state.items()}
    save_file(half, folder / "model.safetensors")
    heads = json.dumps({"vision_heads": HEADS, "text_heads": HEADS}, indent=2) + "\n"
    (folder / "config.json").write_text(heads)


def published(key: str) -> str:
    """The published name of one of transformers' keys of the vision tower."""
    for pattern, name in (
        (r"^embeddings\.class_embedding$", "cls_token"),
        (r"^embeddings\.position_embedding$", "pos_embed"),
        (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
        (r"^encoder\.layers\.", "blocks."),
        (r"\.layer_norm([12])\.", r".norm\1."),
        (r"\.self_attn\.qkv\.", ".attn.qkv."),
        (r"\.self_attn\.projection\.", ".attn.proj."),
        (r"^post_layernorm\.", "norm."),
    ):
        key = re.sub(pattern, name, key)
    return key
