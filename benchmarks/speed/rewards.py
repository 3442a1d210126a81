"""Rewards, returns and advantages as the published SDPO code computes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffrl.tensors import Float, Int, Tensor


class PilScorer:
    """CLIP's cosine of pictures and prompts: through PIL, in fp32, the text encoded every time.

    Args:
        model: a CLIPModel.
        tokenizer: its own.
        processor: its image processor, for sizes and statistics.
        device: that computes.
    """

    def __init__(self, model: Any, tokenizer: Any, processor: Any, device: torch.device) -> None:
        self.model = model.to(device, torch.float32).eval().requires_grad_(False)
        self._tokenizer, self._device = tokenizer, device
        self._edge = int(processor.size["shortest_edge"])
        self._mean = np.array(processor.image_mean, dtype=np.float32)
        self._std = np.array(processor.image_std, dtype=np.float32)

    @classmethod
    def load(cls, ref: str, device: torch.device) -> PilScorer:
        """Load from wherever diffrl's own reward loads."""
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        from diffrl.builtin.references import find

        source = find(ref, "config.json", "CLIP", "--reward-checkpoint NAME=")
        where, at = source.where, source.at
        return cls(
            CLIPModel.from_pretrained(where, use_safetensors=True, **at),
            CLIPTokenizer.from_pretrained(where, **at),
            CLIPImageProcessor.from_pretrained(where, **at),
            device,
        )

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "b 3 h w"], text: Sequence[str]) -> Tensor:
        """Return one score per picture."""
        model = self.model
        tokens = self._tokenizer(
            list(text), padding=True, truncation=True, return_tensors="pt",
            max_length=int(model.config.text_config.max_position_embeddings),
        ).to(self._device)  # fmt: skip
        pixels = self._prepared(images).to(self._device)
        seen = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
        read = model.text_model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        ).pooler_output
        read = model.text_projection(read)
        seen, read = (v / v.norm(dim=-1, keepdim=True) for v in (seen, read))
        return (seen * read).sum(-1)

    def _prepared(self, images: Tensor) -> Tensor:
        levels = (images.float() * 255).round().clamp(0, 255).to(torch.uint8)
        pictures = [Image.fromarray(one) for one in levels.cpu().numpy().transpose(0, 2, 3, 1)]
        ready = []
        for picture in pictures:
            small = picture.convert("RGB").resize((self._edge,) * 2, Image.Resampling.BICUBIC)
            ready.append((np.asarray(small, dtype=np.float32) / 255 - self._mean) / self._std)
        return torch.from_numpy(np.stack(ready)).permute(0, 3, 1, 2).contiguous()


def similarity(x0_hat: Float[Tensor, "b T c h w"], at: Int[Tensor, "b"]) -> Float[Tensor, "b T"]:
    """Return the cosine of every clean latent with that of one step of each row."""
    flat = x0_hat.flatten(2)
    one = flat[torch.arange(len(flat), device=flat.device), at]
    return torch.nn.functional.cosine_similarity(flat, one[:, None], dim=2)


def anchored(x0_hat: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return each row's anchor, and the similarities to its first, anchor and last step."""
    first = torch.zeros(len(x0_hat), dtype=torch.long, device=x0_hat.device)
    ends = [similarity(x0_hat, first), similarity(x0_hat, first + x0_hat.shape[1] - 1)]
    sums = ends[0] + ends[1]
    # Those of both ends are one number: in half precision, as published, they tie, and the first
    # wins; in fp32 rounding would choose.
    least = sums.amin(1, keepdim=True) + 16 * torch.finfo(sums.dtype).eps
    anchor = (sums <= least).int().argmax(1)
    return anchor, [ends[0], similarity(x0_hat, anchor), ends[1]]


def dense_rewards(
    scores: Float[Tensor, "b 3"], alike: Sequence[Float[Tensor, "b T"]], anchor: Int[Tensor, "b"]
) -> Float[Tensor, "b T"]:
    """Return a reward for every step; `scores` and `alike` are of first, anchor and last step."""
    weighed = sum(scores[:, q, None] * alike[q] for q in range(3))
    dense = weighed / (alike[0] + alike[1] + alike[2])
    assert isinstance(dense, torch.Tensor)
    dense = dense.to(scores.dtype)
    rows = torch.arange(len(dense), device=dense.device)
    dense[:, 0], dense[:, -1] = scores[:, 0], scores[:, 2]
    dense[rows, anchor] = scores[:, 1]
    return dense


def returns_of(rewards: np.ndarray, gamma: float) -> np.ndarray:
    """Return discounted sums over later steps, in place."""
    if gamma > 0:
        for k in reversed(range(rewards.shape[1] - 1)):
            rewards[:, k] += gamma * rewards[:, k + 1]
    return rewards


class StepPromptTracker:
    """Recent returns of each prompt and step, and z-scores by them."""

    def __init__(self, buffer: int, least: int) -> None:
        self._buffer, self._least = buffer, least
        self.kept: dict[tuple[str, int], list[deque[float]]] = {}

    def update(self, text: Sequence[str], values: np.ndarray) -> np.ndarray:
        """Remember returns of shape `n T`, and return their advantages."""
        names, steps = np.array(text), values.shape[1]
        found = np.empty_like(values)
        for name in np.unique(names):
            queues = self.kept.setdefault(
                (str(name), steps), [deque(maxlen=self._buffer) for _ in range(steps)]
            )
            for k in range(steps):
                mine = values[names == name, k]
                queues[k].extend(mine)
                if len(queues[k]) < self._least:
                    mean, std = np.mean(values[:, k]), np.std(values[:, k])
                else:
                    mean, std = np.mean(queues[k]), np.std(queues[k])
                found[names == name, k] = (mine - mean) / (std + 1e-6)
        return found
