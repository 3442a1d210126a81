"""What can be measured of pictures without a reward: what reward hacking destroys.

Pictures are `b 3 h w` in [0, 1]. A policy that has learned to please its reward in one way draws
pictures that are alike, washed out, or full of noise, long before a person looks at them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from diffrl.tensors import Float, Tensor

LUMA = (0.299, 0.587, 0.114)
EDGE = 0.1
"""Change of brightness over a pixel, of 1 from black to white, that counts as an edge."""

BINS = 4
"""Levels of each of red, green and blue in the histogram of colors."""


def sharpness(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b"]:
    """Return the standard deviation of the Laplacian of brightness, × 255: 0 is without detail."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], device=images.device)
    found = functional.conv2d(_brightness(images), kernel[None, None])
    return found.flatten(1).std(1, correction=0) * 255


def edges(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b"]:
    """Return the share of pixels, in percent, across which brightness changes by a tenth."""
    gray = _brightness(images)
    across = (gray[..., 1:-1, 2:] - gray[..., 1:-1, :-2]) / 2
    down = (gray[..., 2:, 1:-1] - gray[..., :-2, 1:-1]) / 2
    return 100 * ((across.square() + down.square()).sqrt() > EDGE).flatten(1).float().mean(1)


def color_entropy(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b"]:
    """Return the entropy in bits of the colors of a picture, in 4 × 4 × 4 bins: at most 6."""
    level = (images * BINS).long().clamp(0, BINS - 1)
    bins = (level[:, 0] * BINS + level[:, 1]) * BINS + level[:, 2]
    flat = bins.flatten(1)
    share = torch.zeros(len(flat), BINS**3, device=flat.device)
    share.scatter_add_(1, flat, torch.full(flat.shape, 1 / flat.shape[1], device=flat.device))
    return -(share * share.clamp_min(1e-12).log2()).sum(1)


def pixel_distance(
    one: Float[Tensor, "*b 3 h w"], other: Float[Tensor, "*b 3 h w"]
) -> Float[Tensor, "*b"]:
    """Return the root mean square difference of pictures, × 255."""
    return (one - other).flatten(-3).square().mean(-1).sqrt() * 255


def cosine_distance(
    one: Float[Tensor, "*b d"], other: Float[Tensor, "*b d"]
) -> Float[Tensor, "*b"]:
    """Return 1 less the cosine of unit embeddings, × 100."""
    return 100 * (1 - (one * other).sum(-1))


def pixel_distances(pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "pairs"]:
    """Return `pixel_distance` of every two pictures."""
    flat = pictures.flatten(1)
    return torch.pdist(flat) / flat.shape[1] ** 0.5 * 255


def cosine_distances(embeddings: Float[Tensor, "b d"]) -> Float[Tensor, "pairs"]:
    """Return `cosine_distance` of every two unit embeddings."""
    a, b = torch.triu_indices(len(embeddings), len(embeddings), offset=1)
    return 100 * (1 - (embeddings @ embeddings.T)[a, b])


def diversity(
    items: Float[Tensor, "b *item"],
    text: Sequence[str],
    distances: Callable[[Tensor], Tensor],
) -> dict[str, float]:
    """Return the mean distance of two pictures, for each prompt that has at least two."""
    found = {}
    for prompt in dict.fromkeys(text):
        own = items[[i for i, one in enumerate(text) if one == prompt]]
        if len(own) > 1:
            found[prompt] = float(distances(own).mean())
    return found


PICTURE: dict[str, Callable[[Tensor], Tensor]] = {
    "sharpness": sharpness,
    "edges": edges,
    "color-entropy": color_entropy,
}
"""Measures of single pictures, by the name in metrics."""


def _brightness(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    weights = torch.tensor(LUMA, device=images.device)[:, None, None]
    return (images.float() * weights).sum(1, keepdim=True)
