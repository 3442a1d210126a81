"""Grids of pictures with their prompts and numbers of steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont

from diffrl.tensors import Float, Tensor

GAP, SIDE, HEAD, SMALLEST, LARGEST = 4, 84, 20, 96, 192


def grid(
    images: Float[Tensor, "s b 3 h w"], steps: Sequence[int], prompts: Sequence[str]
) -> Image.Image:
    """Return one row per number of steps, one column per prompt."""
    return _table([(_steps(n), row) for n, row in zip(steps, images, strict=True)], prompts)


def before_after(
    before: Float[Tensor, "s b 3 h w"],
    after: Float[Tensor, "s b 3 h w"],
    steps: Sequence[int],
    prompts: Sequence[str],
) -> Image.Image:
    """Return two rows per number of steps: before training, and after it, from the same noise."""
    rows = []
    for n, old, new in zip(steps, before, after, strict=True):
        rows += [(f"{_steps(n)}\nbefore", old), (f"{_steps(n)}\nafter", new)]
    return _table(rows, prompts)


def _steps(number: int) -> str:
    return f"{number} step{'s' if number > 1 else ''}"


def _table(rows: Sequence[tuple[str, Tensor]], prompts: Sequence[str]) -> Image.Image:
    cell = min(max(rows[0][1].shape[-1], SMALLEST), LARGEST)
    size = (SIDE + len(prompts) * (cell + GAP), HEAD + len(rows) * (cell + GAP))
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, prompt in enumerate(prompts):
        pen.text((SIDE + column * (cell + GAP), 3), _short(prompt, cell), "black", font)
    for number, (label, images) in enumerate(rows):
        top = HEAD + number * (cell + GAP)
        pen.text((6, top + cell // 2 - 14), label, "black", font)
        for column, image in enumerate(images):
            sheet.paste(_picture(image, cell), (SIDE + column * (cell + GAP), top))
    return sheet


def _picture(image: Tensor, cell: int) -> Image.Image:
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels).resize((cell, cell), Image.Resampling.BICUBIC)


def _short(prompt: str, cell: int) -> str:
    room = max(4, cell // 7)
    return prompt if len(prompt) <= room else prompt[: room - 1] + "…"
