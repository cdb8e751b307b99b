"""The chart at the foot of the poster: a darkened strip, and bars of light that shine into each other.

Light is added, so the bars can be drawn in any order; but adding is read, add, write on pixels that the
neighbours change too, and that is what the lock is for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from demo_lib.words import BARS, Bar

Pixels = NDArray[np.uint8]

TITLE = "the words Python's reference manual uses most"
_ROWS = 16  # darkened at a time, so that the temporaries stay in the cache
_BAR = np.array([255, 150, 70], np.float32)
_LETTERS = np.array([255, 236, 200], np.float32)


@dataclass(frozen=True)
class Light:
    """Light to add to the picture at this place."""

    top: int
    left: int
    pixels: Pixels


def darken_strip(picture: Pixels) -> None:
    """Darken the foot of the picture in place and write the title there."""
    height, width = picture.shape[:2]
    rows = _strip_height(height)
    strip = picture[height - rows :]
    shade = np.interp(np.arange(rows), [0, rows * 0.3], [256, 52]).astype(np.uint16)
    for start in range(0, rows, _ROWS):
        part = strip[start : start + _ROWS]
        part[:] = (part * shade[start : start + _ROWS, None, None]) >> 8
    letters = _write(TITLE, width // 58, width)
    left = width - width // (BARS * 5) - letters.shape[1]
    light = letters[..., None] * (_LETTERS / 255)
    add_light(picture, Light(height - rows + rows // 4, left, light.astype(np.uint8)))


def bar_of_light(bar: Bar, height: int, width: int) -> Light:
    """The light of one bar with its word and its count, for a picture of this size."""
    rows, slot = _strip_height(height), width / BARS
    bottom, length = int(rows * 0.80), max(2, int(rows * 0.48 * bar.share))
    glow, size = max(1, int(slot * 0.42)), max(6, int(slot * 0.185))
    middle = int(slot * (bar.slot + 0.5))
    left, right = max(0, middle - int(slot * 0.8)), min(width, middle + int(slot * 0.8))
    first = max(0, bottom - length - max(glow, int(size * 1.45)))
    x = np.abs(np.arange(left, right, dtype=np.float32) - middle) - np.float32(slot * 0.2)
    y = np.arange(first, rows, dtype=np.float32)
    y = np.maximum(bottom - length - y, y - bottom)
    outside = np.hypot(np.maximum(x, 0.0)[None, :], np.maximum(y, 0.0)[:, None])
    shine = np.where(outside > 0.0, 0.42 * np.square(np.maximum(1.0 - outside / glow, 0.0)), 0.92)
    light = shine[..., None].astype(np.float32) * _BAR
    label_row, count_row = bottom + int(rows * 0.035), bottom - length - int(size * 1.45)
    for words, row in ((bar.word, label_row), (str(bar.count), count_row)):
        top = max(0, row - first)
        letters = _write(words, size, int(slot * 0.98))[: len(light) - top]
        start = max(0, middle - left - letters.shape[1] // 2)
        place = light[top : top + letters.shape[0], start : start + letters.shape[1]]
        place += letters[:, : place.shape[1], None] * (_LETTERS / 255)
    return Light(height - rows + first, left, np.minimum(light, 255.0).astype(np.uint8))


def add_light(picture: Pixels, light: Light) -> None:
    """Add the light to the picture in place."""
    rows, columns = light.pixels.shape[:2]
    place = picture[light.top : light.top + rows, light.left : light.left + columns]
    place[:] = np.minimum(place.astype(np.uint16) + light.pixels, 255)


def _strip_height(height: int) -> int:
    return height // 5


def _write(words: str, size: int, widest: int) -> NDArray[np.float32]:
    """The words in white on black, at most `widest` pixels wide."""
    font = ImageFont.load_default(size)
    length = font.getlength(words)
    if length > widest:
        font = ImageFont.load_default(max(4, int(size * widest / length)))
    box = Image.new("L", (int(font.getlength(words)) + 2, int(size * 1.3) + 2))
    ImageDraw.Draw(box).text((1, 0), words, fill=255, font=font)
    return np.asarray(box, np.float32)
