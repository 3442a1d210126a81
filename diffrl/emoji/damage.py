"""Ways to spoil a picture, with a strength in [0, 1]; for judges to ignore and raters to notice.

Every function maps float [b, 3, h, w] in [0, 1] to the same, with one strength per picture, [b].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Damage = Callable[[Tensor, Tensor, Generator], Tensor]


def _uniform(*shape: int, like: Tensor, rng: Generator) -> Tensor:
    return torch.rand(shape, generator=rng).to(like.device)


def _wide(strength: Tensor) -> Tensor:
    return strength[:, None, None, None]


def blurred(x: Tensor, strength: Tensor, rng: Generator) -> Tensor:
    """Gaussian blur of up to 2 px standard deviation."""
    grid = torch.arange(-5, 6, device=x.device, dtype=x.dtype)
    sigma = 0.3 + 1.7 * strength[:, None]
    kernel = (-(grid**2) / (2 * sigma**2)).exp()
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)  # 3b 11
    b, c, h, w = x.shape
    flat = F.pad(x.reshape(1, b * c, h, w), (5, 5, 5, 5), mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=b * c)
    return F.conv2d(flat, kernel[:, None, :, None], groups=b * c).reshape(b, c, h, w)


def pixelated(x: Tensor, strength: Tensor, rng: Generator) -> Tensor:
    """Shrunk to as little as a quarter and smoothly enlarged, mixed in by strength."""
    factor = 0.25 + 0.35 * float(_uniform(1, like=x, rng=rng))
    small = F.interpolate(x, scale_factor=factor, mode="bilinear", antialias=True)
    back = F.interpolate(small, size=x.shape[-2:], mode="bicubic").clamp(0, 1)
    return x.lerp(back, _wide(0.2 + 0.8 * strength))


def noisy(x: Tensor, strength: Tensor, rng: Generator) -> Tensor:
    """White noise, half of the pictures at half resolution, of up to 0.2."""
    b, _, h, w = x.shape
    fine = torch.randn((b, 3, h, w), generator=rng).to(x)
    coarse = torch.randn((b, 3, h // 2, w // 2), generator=rng).to(x)
    coarse = F.interpolate(coarse, size=(h, w), mode="bilinear")
    pick = _wide(_uniform(b, like=x, rng=rng) < 0.5)
    return (x + torch.where(pick, fine, coarse) * _wide(0.02 + 0.18 * strength)).clamp(0, 1)


def faded(x: Tensor, strength: Tensor, rng: Generator) -> Tensor:
    """Washed out: less contrast and a shift of all colors."""
    shift = (_uniform(len(x), 3, 1, 1, like=x, rng=rng) - 0.5) * 0.4
    grey = x.mean((1, 2, 3), keepdim=True)
    amount = _wide(strength)
    return (x.lerp(grey, 0.1 + 0.5 * amount) + shift * amount).clamp(0, 1)


def warped(x: Tensor, strength: Tensor, rng: Generator) -> Tensor:
    """Bent by a smooth random field of up to 4 px."""
    b, _, h, w = x.shape
    coarse = torch.randn((b, 2, 6, 6), generator=rng).to(x)
    field = F.interpolate(coarse, size=(h, w), mode="bicubic") * _wide(0.01 + 0.06 * strength)
    theta = torch.eye(2, 3, device=x.device, dtype=x.dtype).expand(b, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False) + field.permute(0, 2, 3, 1)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def blotched(x: Tensor, strength: Tensor, rng: Generator) -> Tensor:
    """Stained with soft patches of random colors, as unsure latents decode."""
    b, _, h, w = x.shape
    mask = F.interpolate(
        torch.randn((b, 1, 8, 8), generator=rng).to(x), size=(h, w), mode="bicubic"
    )
    mask = (mask - 0.8).clamp(0, 1) * _wide(0.2 + 0.8 * strength)
    color = F.interpolate(_uniform(b, 3, 4, 4, like=x, rng=rng), size=(h, w), mode="bicubic")
    return x.lerp(color.clamp(0, 1), mask)


def erased(x: Tensor, strength: Tensor, rng: Generator) -> Tensor:
    """A rectangle of one color over up to a third of the side."""
    b, _, h, w = x.shape
    size = (0.12 + 0.25 * strength)[:, None, None]
    top, left = (_uniform(2, b, 1, 1, like=x, rng=rng) * (1 - size)).unbind(0)
    ys = torch.arange(h, device=x.device)[None, :, None] / h
    xs = torch.arange(w, device=x.device)[None, None, :] / w
    inside = (ys >= top) & (ys < top + size) & (xs >= left) & (xs < left + size)
    return torch.where(inside[:, None], _uniform(b, 3, 1, 1, like=x, rng=rng), x)


def ghosted(x: Tensor, strength: Tensor, rng: Generator) -> Tensor:
    """Mixed with itself moved by up to 4 px, as averages over positions look."""
    dx, dy = (int(v) for v in torch.randint(-4, 5, (2,), generator=rng))
    moved = torch.roll(x, (dy or 2, dx), dims=(2, 3))
    return x.lerp(moved, _wide(0.15 + 0.35 * strength))


DAMAGES: dict[str, Damage] = {
    f.__name__: f for f in (blurred, pixelated, noisy, faded, warped, blotched, erased, ghosted)
}
"""All kinds of damage by name."""


@torch.no_grad()
def damaged(x: Tensor, strength: Tensor, rng: Generator, rounds: int = 1) -> Tensor:
    """Pictures spoilt in `rounds` random ways each; whole sub-batches share a way."""
    with torch.autocast(x.device.type, enabled=False):
        for _ in range(rounds):
            x = _spoilt(x, strength, rng)
    return x


def _spoilt(x: Tensor, strength: Tensor, rng: Generator) -> Tensor:
    names = torch.randint(len(DAMAGES), (len(x),), generator=rng)
    out = x.clone()
    for i, damage in enumerate(DAMAGES.values()):
        rows = (names == i).nonzero()[:, 0].to(x.device)
        if len(rows):
            out[rows] = damage(x[rows], strength[rows], rng)
    return out
