"""Many tasks fill disjoint slices of one mutable array: no lock, no copy, nothing sent back.

The array is a picture of the Mandelbrot set. Each task gets the ref as an argument, which arrives as a view
of the shared memory, and writes its own rows there.
"""

import os
from time import perf_counter

import numpy as np

import shoal

HEIGHT, WIDTH, ROWS, DEPTH = 960, 1440, 40, 60


@shoal.remote
def fill(picture: np.ndarray, first: int) -> int:
    """Write the rows from `first` on: how long each point stays near the origin."""
    y = np.linspace(-1.2, 1.2, HEIGHT)[first : first + ROWS, None]
    x = np.linspace(-2.4, 1.2, WIDTH)[None, :]
    point = x + 1j * y
    value = np.zeros_like(point)
    mine = picture[first : first + ROWS]
    for _ in range(DEPTH):
        near = np.abs(value) <= 2.0
        mine += near
        value = np.where(near, value * value + point, value)
    return os.getpid()


shoal.init()
ref = shoal.put(np.zeros((HEIGHT, WIDTH), np.uint8), mutable=True)
begun = perf_counter()
processes = shoal.get([fill.remote(ref, first) for first in range(0, HEIGHT, ROWS)])
took = perf_counter() - begun

picture = shoal.get(ref)
for row in picture[HEIGHT // 48 :: HEIGHT // 24]:
    print("".join(" .:-=+*%@#"[min(9, int(depth) * 9 // DEPTH)] for depth in row[:: WIDTH // 72]))
workers = len(set(processes))
print(f"{len(processes)} tasks in {workers} processes wrote {picture.nbytes:,} bytes in {took:.2f} s")
assert picture.min() > 0  # every slice was written
