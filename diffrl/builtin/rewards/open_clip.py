"""open_clip's CLIP as a scorer, with HPSv2's published weights or a folder of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from diffrl.builtin.references import Source, find
from diffrl.builtin.rewards.clip import REMEMBERED
from diffrl.builtin.rewards.heads import fill, read_weights
from diffrl.builtin.rewards.pixels import Preprocess
from diffrl.speed.formats import DTYPES
from diffrl.tensors import Float, Int, Tensor

ARCHITECTURE = "ViT-H-14"
FILES = {"v2.0": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"}

Tokenize = Callable[[str], Int[Tensor, "1 n"]]


class OpenClipScorer:
    """An open_clip model with its tokenizer; pictures are prepared as for any CLIP."""

    def __init__(self, model: Any, tokenize: Tokenize, device: str, precision: str) -> None:
        self._model = model.to(device, DTYPES[precision]).eval().requires_grad_(False)
        self._tokenize, self._device, self._dtype = tokenize, device, DTYPES[precision]
        self._preprocess = Preprocess.square(int(model.visual.image_size[0]))
        self._text: dict[str, Tensor] = {}

    @classmethod
    def load(cls, ref: str, version: str, device: str, precision: str) -> OpenClipScorer:
        """Load from a hub id, a file, a folder, or the package.

        Raises:
            CheckpointMissing: if the weights are neither on disk nor reachable, or do not fit.
        """
        import open_clip

        source = find(ref, FILES[version], "HPSv2", "--reward-checkpoint hpsv2=")
        if source.file.is_dir():
            model, tokenize = _from_folder(source)
        else:
            config: Any = open_clip.get_model_config(ARCHITECTURE)
            model = empty(config)
            tokenize = open_clip.get_tokenizer(ARCHITECTURE)
            fill(model, read_weights(source), source.file)
        return cls(model, tokenize, device, precision)

    def image_embedding(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Return unit image embeddings, in fp32."""
        pixels = self._preprocess(images.to(self._device)).to(self._dtype)
        return nn.functional.normalize(self._model.encode_image(pixels).float(), dim=-1)

    def text_embedding(self, text: Sequence[str]) -> Float[Tensor, "b d"]:
        """Return unit text embeddings in fp32, each prompt computed once."""
        if len(self._text) > REMEMBERED:
            self._text.clear()
        with torch.no_grad():
            for new in dict.fromkeys(t for t in text if t not in self._text):
                tokens = self._tokenize(new).to(self._device)
                embedding = self._model.encode_text(tokens).float()
                self._text[new] = nn.functional.normalize(embedding, dim=-1)[0]
        return torch.stack([self._text[t] for t in text])

    def cosine(self, images: Float[Tensor, "b 3 h w"], text: Sequence[str]) -> Float[Tensor, "b"]:
        """Return the cosine of each picture with its prompt."""
        return (self.image_embedding(images) * self.text_embedding(text)).sum(-1)


def empty(config: dict[str, Any]) -> Any:
    """Return an open_clip CLIP of a model configuration, with random weights."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision, text = CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"])
    return CLIP(config["embed_dim"], vision, text, bool(config.get("quick_gelu", False)))


def _from_folder(source: Source) -> tuple[Any, Tokenize]:
    """Return the model and tokenizer of a folder with open_clip's two files and a tokenizer."""
    from transformers import CLIPTokenizer

    folder = source.file
    source = replace(source, file=folder / "open_clip_model.safetensors")
    try:
        config = json.loads((folder / "open_clip_config.json").read_text("utf-8"))["model_cfg"]
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        model, length = empty(config), int(config["text_cfg"].get("context_length", 77))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise source.unreadable("open_clip model", error) from None
    fill(model, read_weights(source), source.file)

    def tokenize(text: str) -> Int[Tensor, "1 n"]:
        # open_clip reads the text at its highest token, which must be the end, and pads with 0.
        ids = tokenizer(text, truncation=True, max_length=length).input_ids
        return torch.tensor([ids + [0] * (length - len(ids))])

    return model, tokenize
