"""ImageReward's BLIP on transformers' classes, from the published checkpoint's key names.

Source: THUDM/ImageReward, `ImageReward.py` and its BLIP; transformers' `BlipVisionModel` and
`BlipTextModel` compute the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffrl.builtin.references import find
from diffrl.builtin.rewards.clip import REMEMBERED
from diffrl.builtin.rewards.heads import fill, linear_layers, read_weights
from diffrl.builtin.rewards.pixels import Preprocess
from diffrl.errors import CheckpointMissing
from diffrl.speed.formats import DTYPES
from diffrl.tensors import Float, Tensor

FILE = "ImageReward.pt"
LENGTH = 35
"""Tokens of a prompt, padded and cut, as the package does."""

HEAD_WIDTH = 64
"""Width of an attention head in the published model; weights do not tell it."""

VISION_KEYS = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"^norm\.", "post_layernorm."),
)


class BlipScorer:
    """Scores pictures with prompts; implements `diffrl.stages.Scorer`."""

    def __init__(
        self, vision: Any, text: Any, head: nn.Module, tokenizer: Any, device: str, precision: str
    ) -> None:
        dtype = DTYPES[precision]
        self._vision, self._text_model = (
            part.to(device, dtype).eval().requires_grad_(False) for part in (vision, text)
        )
        self._head = head.to(device, torch.float32).eval().requires_grad_(False)
        self._tokenizer, self._device, self._dtype = tokenizer, device, dtype
        self._preprocess = Preprocess.square(int(vision.config.image_size))
        self._tokens: dict[str, tuple[Tensor, Tensor]] = {}

    @classmethod
    def load(cls, ref: str, tokenizer: str, device: str, precision: str) -> BlipScorer:
        """Load from a hub id, the published file, or a folder with `model.safetensors`.

        A folder's `config.json` gives `vision_heads` and `text_heads`.

        Raises:
            CheckpointMissing: if weights or tokenizer are neither on disk nor reachable.
        """
        from transformers import AutoTokenizer

        source, heads = find(ref, FILE, "ImageReward", "--reward-checkpoint imagereward="), {}
        if source.file.is_dir():
            heads = _heads(source.file / "config.json")
            source = replace(source, file=source.file / "model.safetensors")
        option = "--set rewards.imagereward.tokenizer="
        spoken = find(tokenizer, "tokenizer_config.json", "tokenizer", option)
        try:
            words = AutoTokenizer.from_pretrained(
                spoken.where, trust_remote_code=False, **spoken.at
            )
        except Exception as error:  # of files, or of a hub's transport, which has errors of its own
            raise spoken.unreadable("tokenizer", error) from error
        weights, path = read_weights(source), source.file
        vision, text = towers(weights, path, **heads)
        return cls(vision, text, linear_layers(weights, path, "mlp."), words, device, precision)

    def __call__(self, images: Float[Tensor, "b 3 h w"], text: Sequence[str]) -> Float[Tensor, "b"]:
        """Return raw scores, in fp32."""
        pixels = self._preprocess(images.to(self._device)).to(self._dtype)
        if len(self._tokens) > REMEMBERED:
            self._tokens.clear()
        for new in dict.fromkeys(t for t in text if t not in self._tokens):
            self._tokens[new] = self._read(new)
        ids, mask = (torch.cat(part) for part in zip(*(self._tokens[t] for t in text), strict=True))
        return self.forward(pixels, ids, mask)

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Float[Tensor, "b"]:
        """Return raw scores of prepared pictures and tokens."""
        seen = self._vision(pixel_values=pixels).last_hidden_state
        read = self._text_model(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], device=seen.device),
            is_decoder=False,
        ).last_hidden_state
        return self._head(read[:, 0].float()).squeeze(-1)

    def _read(self, text: str) -> tuple[Tensor, Tensor]:
        tokens = self._tokenizer(
            text, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        ).to(self._device)
        return tokens.input_ids, tokens.attention_mask


def _heads(config: Path) -> dict[str, int]:
    """Return the numbers of attention heads that a folder notes."""
    try:
        found = json.loads(config.read_text("utf-8"))
        return {name: int(found[name]) for name in ("vision_heads", "text_heads")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointMissing(
            f"cannot read {config}: expected JSON with vision_heads and text_heads "
            f"({type(error).__name__}: {error})"
        ) from None


def towers(
    weights: Mapping[str, Tensor], path: Path, vision_heads: int = 0, text_heads: int = 0
) -> tuple[Any, Any]:
    """Return transformers' vision and text models with the published weights.

    Args:
        weights: under the published names `blip.visual_encoder.*` and `blip.text_encoder.*`.
        path: where they come from, for messages.
        vision_heads: 0 stands for width / 64.
        text_heads: 0 stands for width / 64.

    Raises:
        CheckpointMissing: if something is missing or has another shape.
    """
    from transformers import BlipTextModel, BlipVisionModel

    seen = {vision_key(k): v for k, v in under(weights, "blip.visual_encoder.").items()}
    read = under(weights, "blip.text_encoder.")
    vision = BlipVisionModel(vision_config(seen, vision_heads, path))
    text = BlipTextModel(text_config(read, text_heads, path), add_pooling_layer=False)
    fill(vision, seen, path)
    fill(text, read, path)
    return vision, text


def vision_key(key: str) -> str:
    """Return transformers' name for a key of ImageReward's vision transformer."""
    for pattern, name in VISION_KEYS:
        key = re.sub(pattern, name, key)
    return key


def under(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights whose names start with a prefix, without it."""
    return {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}


def vision_config(weights: Mapping[str, Tensor], heads: int, path: Path) -> Any:
    """Return the configuration that vision weights, under transformers' names, were made with.

    Raises:
        CheckpointMissing: if they are not those of a vision transformer.
    """
    from transformers import BlipVisionConfig

    try:
        places = weights["embeddings.position_embedding"]
        patch = weights["embeddings.patch_embedding.weight"].shape[-1]
        inner = weights["encoder.layers.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise _lacking(error, path) from None
    width = places.shape[-1]
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=_layers(weights, "encoder.layers."),
        num_attention_heads=heads or width // HEAD_WIDTH,
        image_size=patch * round((places.shape[1] - 1) ** 0.5),
        patch_size=patch,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
    )


def text_config(weights: Mapping[str, Tensor], heads: int, path: Path) -> Any:
    """Return the configuration that text weights were made with.

    Raises:
        CheckpointMissing: if they are not those of a cross-attending BERT.
    """
    from transformers import BlipTextConfig

    try:
        words = weights["embeddings.word_embeddings.weight"]
        places = weights["embeddings.position_embeddings.weight"]
        inner = weights["encoder.layer.0.intermediate.dense.weight"].shape[0]
        seen = weights["encoder.layer.0.crossattention.self.key.weight"].shape[1]
    except KeyError as error:
        raise _lacking(error, path) from None
    return BlipTextConfig(
        vocab_size=words.shape[0],
        hidden_size=words.shape[1],
        encoder_hidden_size=seen,
        intermediate_size=inner,
        num_hidden_layers=_layers(weights, "encoder.layer."),
        num_attention_heads=heads or words.shape[1] // HEAD_WIDTH,
        max_position_embeddings=places.shape[0],
        hidden_act="gelu",
        layer_norm_eps=1e-12,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        is_decoder=True,  # without it transformers builds no cross-attention
        bos_token_id=0,
        eos_token_id=0,
        sep_token_id=0,
        pad_token_id=0,
    )


def _layers(weights: Mapping[str, Tensor], prefix: str) -> int:
    return len({k[len(prefix) :].split(".")[0] for k in weights if k.startswith(prefix)})


def _lacking(error: KeyError, path: Path) -> CheckpointMissing:
    return CheckpointMissing(
        f"cannot read the weights {path}: no {error.args[0]}; expected ImageReward's key names"
    )
