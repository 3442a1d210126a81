"""Draws the sprite sheet from Noto Color Emoji; needed only to rebuild, never to run.

Debian's `fonts-noto-color-emoji` holds bitmaps at size 109 only: drawn there, then shrunk.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from diffrl.emoji.world import ANIMALS

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
GLYPHS = "🐈🐕🐎🐒🐇🦓🕷🐦🐑🦌🐄🐐🦁🐅🐻🦝🦊🐺🦎🪲🐜🦋🐟🦈🐋🐬🐿🐁🐀🐍🐢🐸🐔🦆🪿🐝🐖🦃🪰🦙🐫🦇🦍🦔🦘"
"""One glyph per animal, in the order of `ANIMALS`."""

SIZE = 64
COLUMNS = 9


def draw_sheet(font: Path = FONT) -> Image.Image:
    """RGBA sheet of 9 x 5 sprites of 64 px, cropped to their ink, in the order of `ANIMALS`."""
    face = ImageFont.truetype(str(font), 109)
    sheet = Image.new("RGBA", (COLUMNS * SIZE, len(ANIMALS) // COLUMNS * SIZE))
    for i, glyph in enumerate(GLYPHS):
        canvas = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(canvas).text((10, 10), glyph, font=face, embedded_color=True)
        ink = canvas.crop(canvas.getbbox())
        side = max(ink.size)
        square = Image.new("RGBA", (side, side))
        square.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
        sprite = square.resize((SIZE, SIZE), Image.Resampling.HAMMING)
        sheet.paste(sprite, (i % COLUMNS * SIZE, i // COLUMNS * SIZE))
    return sheet
