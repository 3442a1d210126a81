"""The form in which pictures and scores travel: safetensors, which cannot run code.

A question holds `images`, 8-bit numbers of shape b 3 h w, and its prompts as JSON in the metadata.
An answer holds `scores`, 32-bit floats of shape b.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

API = 1
MEDIA = "application/x-safetensors"
PROMPT_LIMIT = 10_000
"""Characters of one prompt."""

SIDE, ASPECT = 4096, 8
"""Pixels of a side of a picture, and its longer over its shorter one, at most."""


class Malformed(ValueError):
    """Bytes that are not what was agreed; the message says what was expected."""


def pack_question(images: Tensor, prompts: Sequence[str]) -> bytes:
    """Return pictures in [0, 1] and their prompts as bytes."""
    import torch
    from safetensors.torch import save

    levels = (images.detach().float() * 255).round().clamp(0, 255).to(torch.uint8)
    return save({"images": levels.cpu().contiguous()}, {"prompts": json.dumps(list(prompts))})


def read_question(body: bytes) -> tuple[Tensor, list[str]]:
    """Return pictures, 8-bit, and their prompts.

    Raises:
        Malformed: saying what was expected.
    """
    import torch

    images = _only(body, "images")
    try:
        prompts = json.loads(metadata(body)["prompts"])
    except (KeyError, ValueError, RecursionError):
        raise Malformed("expected the prompts as JSON in the metadata") from None
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise Malformed("expected images of shape b 3 h w, 8-bit")
    short, long = sorted(images.shape[2:])
    if not 0 < long <= min(SIDE, ASPECT * short):
        raise Malformed(
            f"expected sides of at most {SIDE} pixels, one at most {ASPECT} × the other"
        )
    if not isinstance(prompts, list) or not all(isinstance(p, str) for p in prompts):
        raise Malformed("expected the prompts as a list of texts")
    if len(prompts) != len(images):
        raise Malformed(f"expected one prompt a picture, got {len(prompts)} for {len(images)}")
    if any(len(p) > PROMPT_LIMIT for p in prompts):
        raise Malformed(f"expected prompts of at most {PROMPT_LIMIT} characters")
    return images, prompts


def pack_answer(scores: Tensor) -> bytes:
    """Return scores as bytes."""
    from safetensors.torch import save

    return save({"scores": scores.detach().float().cpu().contiguous()})


def read_answer(body: bytes, count: int) -> Tensor:
    """Return the scores of `count` pictures.

    Raises:
        Malformed: if there are more or fewer, or they are something else than floats.
    """
    import torch

    scores = _only(body, "scores")
    if scores.dtype != torch.float32 or scores.shape != (count,):
        got = f"{scores.dtype} of shape {tuple(scores.shape)}"
        raise Malformed(f"expected {count} scores, torch.float32 of shape ({count},), got {got}")
    return scores


def metadata(body: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file in memory."""
    (length,) = struct.unpack("<Q", body[:8])
    found = json.loads(body[8 : 8 + length]).get("__metadata__", {})
    return found if isinstance(found, dict) else {}


def _only(body: bytes, name: str) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found = load(body)
    except (SafetensorError, ValueError, KeyError, OverflowError):
        raise Malformed("expected safetensors") from None
    if set(found) != {name}:
        raise Malformed(f"expected one tensor called {name!r}, got {len(found)} of other names")
    return found[name]
