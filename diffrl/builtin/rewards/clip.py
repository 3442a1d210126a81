"""CLIP on tensors: no round trip through PIL, text embedded once per prompt, one model for many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import nn

from diffrl.builtin.references import find
from diffrl.builtin.rewards.pixels import Preprocess
from diffrl.speed.formats import DTYPES
from diffrl.tensors import Float, Tensor

REMEMBERED = 10_000
"""Prompts whose embeddings are kept."""

_loaded: WeakValueDictionary[tuple[str, str, str, str], ClipScorer] = WeakValueDictionary()


class ClipScorer:
    """A transformers CLIPModel with its tokenizer and its processor's sizes and statistics."""

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any, device: str) -> None:
        self._model = model.to(device).eval().requires_grad_(False)
        self._tokenizer, self._device = tokenizer, device
        self._preprocess = Preprocess.of(image_processor)
        self._text: dict[str, Tensor] = {}

    @classmethod
    def load(
        cls,
        ref: str,
        device: str,
        precision: str = "fp32",
        option: str = "--reward-checkpoint NAME=",
    ) -> ClipScorer:
        """Load from a hub id, a folder, or the package; a model in use is not loaded twice.

        Args:
            ref: where from.
            device: to load it onto.
            precision: of its weights.
            option: what another one is given with, for messages.

        Raises:
            CheckpointMissing: if the weights are neither on disk nor reachable.
        """
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        source = find(ref, "config.json", "CLIP", option)
        key = (source.where, source.commit, device, precision)
        if (found := _loaded.get(key)) is not None:
            return found
        where, at, dtype = source.where, source.at, DTYPES[precision]
        try:
            made = cls(
                CLIPModel.from_pretrained(where, dtype=dtype, use_safetensors=True, **at),
                CLIPTokenizer.from_pretrained(where, **at),
                CLIPImageProcessor.from_pretrained(where, **at),
                device,
            )
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of files, or of a hub's transport, which has errors of its own
            raise source.unreadable("CLIP", error) from error
        _loaded[key] = made
        return made

    def image_embedding(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Return unit image embeddings, in fp32."""
        pixels = self._preprocess(images.to(self._device)).to(self._model.dtype)
        pooled = self._model.vision_model(pixel_values=pixels).pooler_output
        return nn.functional.normalize(self._model.visual_projection(pooled).float(), dim=-1)

    def text_embedding(self, text: Sequence[str]) -> Float[Tensor, "b d"]:
        """Return unit text embeddings in fp32, each prompt computed once."""
        if len(self._text) > REMEMBERED:
            self._text.clear()
        # One prompt a call: padding and batching would move its rounding with its neighbours.
        for new in dict.fromkeys(t for t in text if t not in self._text):
            self._text[new] = self._embed(new)
        return torch.stack([self._text[t] for t in text])

    @torch.no_grad()
    def _embed(self, text: str) -> Float[Tensor, "d"]:
        tokens = self._tokenizer(
            [text],
            truncation=True,
            max_length=int(self._model.config.text_config.max_position_embeddings),
            return_tensors="pt",
        ).to(self._device)
        pooled = self._model.text_model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        ).pooler_output
        return nn.functional.normalize(self._model.text_projection(pooled).float(), dim=-1)[0]

    def cosine(self, images: Float[Tensor, "b 3 h w"], text: Sequence[str]) -> Float[Tensor, "b"]:
        """Return the cosine of each picture with its prompt."""
        return (self.image_embedding(images) * self.text_embedding(text)).sum(-1)
