"""Pictures for captions, drawn from the sprite sheet in the package (no font needed)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from PIL import Image

from diffrl.emoji import ROOT
from diffrl.emoji.scenery import SIDE, background
from diffrl.emoji.world import ANIMALS, Scene, parse

_CELL, _COLUMNS = 64, 9
_RGB = {
    "red": (235, 35, 35), "orange": (255, 140, 20), "yellow": (250, 220, 40),
    "green": (45, 185, 60), "blue": (45, 95, 240), "purple": (140, 50, 200),
    "pink": (255, 130, 195),
}  # fmt: skip
_SPOTS: dict[int, tuple[int, tuple[tuple[int, int], ...]]] = {
    1: (52, ((32, 32),)),
    2: (31, ((16, 34), (48, 34))),
    3: (29, ((32, 17), (16, 47), (48, 47))),
    4: (29, ((16, 17), (48, 17), (16, 47), (48, 47))),
}
"""Number of sprites: their size and their centers, in pixels."""


@dataclass(frozen=True)
class Layout:
    """All that differs between two pictures of a scene, each number uniform in [0, 1]."""

    x: float
    y: float
    hue: float
    depth: float
    light: float


def render(caption: str, rng: np.random.Generator) -> np.ndarray:
    """One picture of a caption, uint8 [64, 64, 3]; `rng` moves it a little and picks the paper.

    Raises:
        CaptionError: the caption is outside the grammar of `diffrl.emoji.world`.
    """
    return render_scene(parse(caption), rng)


def render_scene(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """One picture of a scene, uint8 [64, 64, 3]."""
    return render_layout(scene, Layout(*rng.random(5)))


def render_layout(scene: Scene, layout: Layout) -> np.ndarray:
    """The picture of a scene in a layout, uint8 [64, 64, 3]."""
    picture = background(scene.place, layout.hue, layout.depth, layout.light)
    names = scene.animals if len(scene.animals) > 1 else scene.animals * scene.count
    size, spots = _SPOTS[len(names)]
    if len(names) == 1 and scene.place:
        size, spots = 44, ((32, 38),)
    elif scene.place:
        size -= 3
    reach = 2 if len(names) == 1 else 1
    shift = [int(u * (2 * reach + 1) * 0.999999) - reach for u in (layout.x, layout.y)]
    for name, (x, y) in zip(names, spots, strict=True):
        _paste(picture, _sprite(name, size, scene.color), x + shift[0], y + shift[1])
    return picture.clip(0, 255).round().astype(np.uint8)


def _paste(picture: np.ndarray, sprite: np.ndarray, x: int, y: int) -> None:
    """Lays a sprite [s, s, 4] (premultiplied) over the picture, its center at (x, y)."""
    half = len(sprite) // 2
    top, left = y - half, x - half
    y0, x0 = max(top, 0), max(left, 0)
    part = sprite[y0 - top : SIDE - top, x0 - left : SIDE - left]
    window = picture[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]]
    window *= 1 - part[..., 3:]
    window += part[..., :3]


@lru_cache(maxsize=1)
def _sheet() -> Image.Image:
    return Image.open(ROOT / "sprites.png").convert("RGBA")


@cache
def _sprite(animal: str, size: int, color: str | None) -> np.ndarray:
    """Sprite [size, size, 4]: colors in [0, 255] premultiplied by alpha in [0, 1]."""
    row, column = divmod(ANIMALS.index(animal), _COLUMNS)
    corner = column * _CELL, row * _CELL
    cell = np.asarray(
        _sheet().crop((*corner, corner[0] + _CELL, corner[1] + _CELL)), dtype=np.float32
    )
    rgb, alpha = cell[..., :3], cell[..., 3:] / 255
    if color:
        rgb = _tinted(rgb, color)
    planes = np.concatenate([rgb * alpha, alpha], axis=2)
    shrunk = [
        Image.fromarray(planes[..., i]).resize((size, size), Image.Resampling.HAMMING)
        for i in range(4)
    ]
    sprite = np.stack([np.asarray(plane) for plane in shrunk], axis=2)
    sprite[..., 3] = sprite[..., 3].clip(0, 1)
    return sprite


def _tinted(rgb: np.ndarray, color: str) -> np.ndarray:
    """Its light and shade in one color: dark stays dark, light turns to the color's light tint."""
    luma = 0.25 + 0.75 * (rgb @ np.asarray([0.299, 0.587, 0.114], np.float32) / 255)[..., None]
    tint = np.asarray(_RGB[color], np.float32)
    dark, light = tint * luma * 1.6, tint + (255 - tint) * (luma - 0.625) * 1.2
    return np.where(luma < 0.625, dark, light)
