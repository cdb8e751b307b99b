"""The numerical work of the demo: count the colours of a photograph, choose inks, print it as a poster.

Pixels are computed with integers and from their neighbours only, so the result does not depend on how the
photograph is cut into bands: both programs of the demo must arrive at the same picture, bit for bit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Counts = NDArray[np.int64]

COLOURS = 32 * 32 * 32  # a colour is counted with five bits a channel
STRIP = 32  # rows worked on at a time, so that the temporaries stay in the cache

_INKS = 16
_EDGE_LEVELS = 8
_SCREEN_STRENGTH = 18
_LUMA = np.array([0.299, 0.587, 0.114])
_DUSK = np.array(  # from the darkest colour of the photograph to its brightest
    [
        [14, 12, 44],
        [52, 20, 92],
        [128, 30, 112],
        [208, 58, 92],
        [246, 118, 72],
        [255, 184, 96],
        [255, 238, 190],
    ],
    dtype=float,
)
_GOLD = np.array([255.0, 206.0, 120.0])
_NIGHT = np.array([22.0, 10.0, 48.0])


class Inks(NamedTuple):
    """What to print: an ink for every colour, and its shade for every strength of edge."""

    nearest: NDArray[np.uint8]  # colour -> number of the ink
    shades: Pixels  # number of the ink * 8 + strength of the edge -> what is printed


def reach_of(width: int) -> int:
    """The distance, in pixels, over which the filter compares neighbours."""
    return max(1, width // 640)


def margin_of(width: int) -> int:
    """How many rows above and below a band the filter looks at."""
    return 2 * reach_of(width)


def _codes(pixels: NDArray[np.uint8] | NDArray[np.int16]) -> NDArray[np.uint16]:
    codes = (pixels[..., 0] >> 3).astype(np.uint16)
    codes <<= 5
    codes |= (pixels[..., 1] >> 3).astype(np.uint16)
    codes <<= 5
    codes |= (pixels[..., 2] >> 3).astype(np.uint16)
    return codes


def count_colours(pixels: Pixels) -> Counts:
    """How often each of the 32768 colours occurs in these pixels."""
    return np.bincount(_codes(pixels).ravel(), minlength=COLOURS)


def _cube() -> NDArray[np.float64]:
    axis = np.arange(32) * 8.0 + 4.0
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)


def _palette(counts: Counts) -> NDArray[np.float64]:
    """The inks of the poster: weighted k-means over the colours that occur, started along the luminance."""
    seen = np.flatnonzero(counts)
    colours, weight = _cube()[seen], counts[seen].astype(float) ** 0.6
    by_light = np.argsort(colours @ _LUMA, kind="stable")
    share = np.cumsum(weight[by_light]) / weight.sum()
    centres = colours[by_light[np.searchsorted(share, (np.arange(_INKS) + 0.5) / _INKS)]]
    for _ in range(10):
        nearest = np.square(colours[:, None] - centres[None]).sum(axis=2).argmin(axis=1)
        total = np.bincount(nearest, weight, _INKS)
        for channel in range(3):
            summed = np.bincount(nearest, weight * colours[:, channel], _INKS)
            centres[:, channel] = np.where(total > 0, summed / np.maximum(total, 1e-9), centres[:, channel])
    return centres[np.argsort(centres @ _LUMA, kind="stable")]


def choose_inks(counts: Counts) -> Inks:
    """The inks to print with, from the colour counts of the whole photograph."""
    palette = _palette(counts)
    light = palette @ _LUMA
    cube = _cube()
    every = cube @ _LUMA
    order = np.argsort(every, kind="stable")
    below = np.cumsum(counts[order]) / max(1, counts.sum())
    equalised = 255.0 * np.interp(light, every[order], below)  # spreads the tones the photograph has most of
    tone = 0.45 * light + 0.55 * equalised
    stops = np.linspace(0.0, 255.0, len(_DUSK))
    dusk = np.stack([np.interp(tone, stops, _DUSK[:, channel]) for channel in range(3)], axis=1)
    inks = np.clip(dusk + 0.75 * (palette - light[:, None]), 0.0, 255.0)
    towards = np.where((light > 105.0)[:, None], _NIGHT, _GOLD)  # dark contours on light, glowing on dark
    strength = (np.linspace(0.0, 0.85, _EDGE_LEVELS))[None, :, None]
    table = inks[:, None] * (1.0 - strength) + towards[:, None] * strength
    nearest = (np.square(palette).sum(axis=1) - 2.0 * cube @ palette.T).argmin(axis=1)
    return Inks(nearest.astype(np.uint8), table.astype(np.uint8).reshape(-1, 3))


def _screen(top: int, rows: int, width: int) -> NDArray[np.int16]:
    """The dots of a silk screen, for these rows of the picture."""
    period = max(2, width // 170)
    wave = np.cos(np.arange(period) * (2.0 * np.pi / period))
    dots = np.rint(wave[:, None] * wave[None, :] * _SCREEN_STRENGTH).astype(np.int16)
    screen: NDArray[np.int16] = dots[np.arange(top, top + rows) % period][:, np.arange(width) % period]
    return screen


def _soften(padded: Pixels, reach: int) -> NDArray[np.int16]:
    """A 1-2-1 blur in both directions; returns `reach` rows fewer at the top and at the bottom."""
    tall = padded[reach:-reach].astype(np.int16)
    tall += tall
    tall += padded[: -2 * reach]
    tall += padded[2 * reach :]
    soft: NDArray[np.int16] = tall + tall
    soft[:, reach:] += tall[:, :-reach]
    soft[:, :reach] += tall[:, :1]
    soft[:, :-reach] += tall[:, reach:]
    soft[:, -reach:] += tall[:, -1:]
    soft >>= 4
    return soft


def _edge_levels(soft: NDArray[np.int16], reach: int) -> NDArray[np.uint8]:
    """0 (flat) to 7 (a hard edge) for every pixel `reach` rows inside `soft`."""
    light = (soft[..., 0] * 5 + soft[..., 1] * 9 + soft[..., 2] * 2) >> 4
    edge = np.abs(light[2 * reach :] - light[: -2 * reach])
    middle = light[reach:-reach]
    edge[:, reach:-reach] += np.abs(middle[:, 2 * reach :] - middle[:, : -2 * reach])
    edge -= 30
    edge >>= 4
    return np.clip(edge, 0, _EDGE_LEVELS - 1).astype(np.uint8)


def print_poster(band: Pixels, above: Pixels, below: Pixels, top: int, inks: Inks) -> None:
    """Print one band of the photograph in place.

    `above` and `below` are the `margin_of(width)` untouched rows on either side, `top` is where the band lies
    in the picture. Only a strip at a time is in private memory.
    """
    rows, width = band.shape[:2]
    reach, margin = reach_of(width), margin_of(width)
    for start in range(0, rows, STRIP):
        stop = min(start + STRIP, rows)
        after = band[stop : stop + margin]
        padded = np.concatenate([above, band[start:stop], after, below[: margin - len(after)]])
        above = padded[stop - start : stop - start + margin].copy()
        soft = _soften(padded, reach)
        levels = _edge_levels(soft, reach)
        dotted = soft[reach:-reach]
        dotted += _screen(top + start, stop - start, width)[..., None]
        np.clip(dotted, 0, 255, out=dotted)
        keys = inks.nearest[_codes(dotted)]
        keys *= _EDGE_LEVELS
        keys += levels
        np.take(inks.shades, keys, axis=0, out=band[start:stop], mode="clip")


def margins(photo: Pixels, top: int, bottom: int) -> tuple[Pixels, Pixels]:
    """Private copies of the rows just above and just below a band; the picture's edge is repeated."""
    margin = margin_of(photo.shape[1])
    above = photo[np.clip(np.arange(top - margin, top), 0, None)]
    below = photo[np.clip(np.arange(bottom, bottom + margin), None, len(photo) - 1)]
    return above, below
