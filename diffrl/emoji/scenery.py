"""Backgrounds: one simple, recognisable scene per place, and plain pastels elsewhere."""

from __future__ import annotations

import colorsys
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

SIDE = 64
_SCALE = 4

Box = tuple[float, float, float, float]


class _Brush:
    """Draws at four times the size, so that the shrunk scene has smooth edges."""

    def __init__(self, sky: str) -> None:
        self.image = Image.new("RGB", (SIDE * _SCALE, SIDE * _SCALE), sky)
        self.draw = ImageDraw.Draw(self.image)

    def box(self, color: str, *xy: int | float) -> None:
        self.draw.rectangle([v * _SCALE for v in xy], fill=color)

    def oval(self, color: str, *xy: int | float) -> None:
        self.draw.ellipse([v * _SCALE for v in xy], fill=color)

    def shape(self, color: str, *xy: int | float) -> None:
        self.draw.polygon([v * _SCALE for v in xy], fill=color)


def _moon() -> _Brush:
    b = _Brush("#0b0b25")
    for x, y in ((6, 8), (18, 20), (30, 6), (9, 30), (41, 14), (58, 28), (26, 32), (47, 34)):
        b.box("#ffffff", x, y, x + 1, y + 1)
    b.oval("#3f7fd0", 46, 3, 60, 17)
    b.oval("#57b060", 49, 6, 55, 12)
    b.oval("#b9b9bf", -22, 42, 86, 120)
    for x, y, r in ((8, 54, 5), (30, 50, 3), (50, 56, 6), (28, 61, 3)):
        b.oval("#85858f", x - r, y - r / 2, x + r, y + r / 2)
    return b


def _park() -> _Brush:
    b = _Brush("#8fd0ff")
    b.oval("#ffe14d", 4, 3, 16, 15)
    b.box("#63bf4a", 0, 42, 64, 64)
    for x in (8, 56):
        b.box("#8a5a2b", x - 2, 28, x + 2, 48)
        b.oval("#2f9440", x - 9, 14, x + 9, 35)
    return b


def _beach() -> _Brush:
    b = _Brush("#a5e3ff")
    b.oval("#fff04a", 46, 3, 60, 17)
    b.box("#1f8fd6", 0, 24, 64, 42)
    b.box("#ffffff", 0, 40, 64, 42)
    b.box("#f2d58c", 0, 42, 64, 64)
    return b


def _snow() -> _Brush:
    b = _Brush("#b9cfe6")
    b.shape("#7f93ad", 0, 42, 16, 12, 34, 42)
    b.shape("#7f93ad", 26, 42, 46, 8, 66, 42)
    b.shape("#ffffff", 10, 23, 16, 12, 23, 23)
    b.shape("#ffffff", 37, 23, 46, 8, 55, 23)
    b.box("#ffffff", 0, 42, 64, 64)
    return b


def _forest() -> _Brush:
    b = _Brush("#123a20")
    for x in (4, 18, 32, 46, 60):
        b.box("#5b3a1e", x - 2, 10, x + 2, 54)
        b.shape("#1e6b33", x - 9, 26, x, -6, x + 9, 26)
    b.box("#2c4d1d", 0, 50, 64, 64)
    return b


def _desert() -> _Brush:
    b = _Brush("#ffb766")
    b.oval("#ff6a3c", 6, 4, 22, 20)
    b.oval("#e0913f", -30, 34, 50, 90)
    b.oval("#c9742b", 14, 42, 100, 96)
    b.box("#3d7d3a", 55, 20, 59, 46)
    b.box("#3d7d3a", 49, 28, 52, 36)
    b.box("#3d7d3a", 49, 34, 57, 37)
    return b


def _city() -> _Brush:
    b = _Brush("#cfd3dc")
    for x, top, color in ((0, 16, "#6b7080"), (13, 4, "#4a4f60"), (26, 22, "#7d8292"),
                          (38, 8, "#565b6d"), (52, 18, "#6b7080")):  # fmt: skip
        b.box(color, x, top, x + 12, 50)
        for y in range(top + 3, 48, 6):
            b.box("#ffe08a", x + 2, y, x + 4, y + 2)
            b.box("#ffe08a", x + 8, y, x + 10, y + 2)
    b.box("#3a3a40", 0, 50, 64, 64)
    for x in (4, 24, 44):
        b.box("#ffffff", x, 56, x + 10, 58)
    return b


def _sea() -> _Brush:
    b = _Brush("#0f6fb8")
    b.box("#2f9fe0", 0, 0, 64, 16)
    b.box("#1c85cf", 0, 16, 64, 36)
    for x, y, r in ((8, 12, 3), (14, 24, 2), (54, 10, 3), (58, 26, 2), (48, 20, 1.5)):
        b.oval("#d8f4ff", x - r, y - r, x + r, y + r)
    b.oval("#d9b673", -20, 54, 84, 84)
    for x in (6, 58):
        b.shape("#2e9e5b", x - 4, 60, x, 38, x + 4, 60)
    return b


_DRAWN = {
    "on the moon": _moon, "in the park": _park, "on the beach": _beach, "in the snow": _snow,
    "in the forest": _forest, "in the desert": _desert, "in the city": _city, "in the sea": _sea,
}  # fmt: skip


@cache
def _drawn(place: str) -> np.ndarray:
    image = _DRAWN[place]().image.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float32)


def background(place: str | None, hue: float, depth: float, light: float) -> np.ndarray:
    """Picture [64, 64, 3] float32 in [0, 255]: the place, or a plain pastel without one.

    The numbers lie in [0, 1]: a pastel's hue, saturation and value; a place has its light alone.
    """
    if place:
        return _drawn(place) * np.float32(0.96 + 0.08 * light)
    rgb = colorsys.hsv_to_rgb(hue, 0.3 * depth, 0.92 + 0.08 * light)
    return np.full((SIDE, SIDE, 3), rgb, dtype=np.float32) * 255
