"""CLIP scorers on tensors: no round trip through PIL, text features computed once per prompt.

Source of the preprocessing: the scorers of SDPO and TDPO: round(255 x) to uint8, antialiased
bicubic to the shortest edge, centre crop, CLIP's mean and standard deviation. Differs: resized by
torchvision on the device instead of PIL, at most one uint8 level away.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffrl.builtin.models import checkpoint, unreachable
from diffrl.errors import CheckpointMissing
from diffrl.tensors import Float, Tensor


class ClipScorer:
    """A CLIPModel with its processor's sizes and statistics, in fp32."""

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any, device: str) -> None:
        self._model = model.to(device).eval().requires_grad_(False)
        self._tokenizer, self._device = tokenizer, device
        self._edge = int(image_processor.size["shortest_edge"])
        self._crop = (
            int(image_processor.crop_size["height"]),
            int(image_processor.crop_size["width"]),
        )
        self._mean = torch.tensor(image_processor.image_mean, device=device)[:, None, None]
        self._std = torch.tensor(image_processor.image_std, device=device)[:, None, None]
        self._text: dict[str, Tensor] = {}

    @classmethod
    def load(cls, ref: str, device: str) -> ClipScorer:
        """Load from a hub id, a folder, or the package.

        Raises:
            CheckpointMissing: if the weights are neither on disk nor reachable.
        """
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        where = checkpoint(ref)
        try:
            return cls(
                CLIPModel.from_pretrained(where, dtype=torch.float32),
                CLIPTokenizer.from_pretrained(where),
                CLIPImageProcessor.from_pretrained(where),
                device,
            )
        except (OSError, ValueError) as error:
            raise unreachable("CLIP", ref, "--reward-checkpoint NAME=FOLDER", error) from None

    def preprocess(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 s s"]:
        """Return pictures in [0, 1] as the vision tower expects them."""
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as tv

        pixels = (images.float() * 255).round().clamp(0, 255).to(torch.uint8)
        if min(pixels.shape[-2:]) != self._edge:
            pixels = tv.resize(
                pixels, [self._edge], interpolation=InterpolationMode.BICUBIC, antialias=True
            )
        if tuple(pixels.shape[-2:]) != self._crop:
            pixels = tv.center_crop(pixels, list(self._crop))
        return (pixels.float() / 255 - self._mean) / self._std

    def image_embedding(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Return unit image embeddings."""
        pixels = self.preprocess(images.to(self._device))
        pooled = self._model.vision_model(pixel_values=pixels).pooler_output
        return nn.functional.normalize(self._model.visual_projection(pooled), dim=-1)

    def text_embedding(self, text: Sequence[str]) -> Float[Tensor, "b d"]:
        """Return unit text embeddings, each prompt computed once."""
        # One prompt a call: padding and batching would move its rounding with its neighbours.
        for new in dict.fromkeys(t for t in text if t not in self._text):
            self._text[new] = self._embed([new])[0]
        return torch.stack([self._text[t] for t in text])

    def _embed(self, text: list[str]) -> Tensor:
        tokens = self._tokenizer(
            text,
            padding=True,
            truncation=True,
            max_length=int(self._model.config.text_config.max_position_embeddings),
            return_tensors="pt",
        ).to(self._device)
        with torch.no_grad():
            pooled = self._model.text_model(
                input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
            ).pooler_output
            return nn.functional.normalize(self._model.text_projection(pooled), dim=-1)

    def cosine(self, images: Float[Tensor, "b 3 h w"], text: Sequence[str]) -> Float[Tensor, "b"]:
        """Return the cosine of each picture with its prompt."""
        return (self.image_embedding(images) * self.text_embedding(text)).sum(-1)


def linear_head(path: Path, device: str) -> nn.Sequential:
    """Return the linear layers of an aesthetic head, dropout left out.

    Args:
        path: safetensors file with `layers.<i>.weight` and `.bias`.
        device: where to put them.

    Raises:
        CheckpointMissing: if the file is of another format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path, device=device)
    except SafetensorError as error:
        raise CheckpointMissing(
            f"cannot read the aesthetic head {path}: expected a safetensors file with "
            f"`layers.<i>.weight` and `.bias` ({error})"
        ) from None
    order = sorted({int(k.split(".")[1]) for k in weights})
    layers = []
    for i in order:
        weight = weights[f"layers.{i}.weight"].float()
        layer = nn.Linear(weight.shape[1], weight.shape[0], device=device)
        layer.weight.data, layer.bias.data = weight, weights[f"layers.{i}.bias"].float()
        layers.append(layer)
    return nn.Sequential(*layers).requires_grad_(False)
