"""Convolve one large image with a filter per core; of each result every fifth row and column is wanted.

multiprocessing pickles the image to every worker; with shared memory it is there once.
"""

from __future__ import annotations

import multiprocessing
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import convolve2d

from benchmarks.measure import Plan, seconds
from benchmarks.peers import Checked

Array = NDArray[np.float64]


def convolve(image: Array, kernel: Array) -> Array:
    """The work, the same for everybody."""
    result: Array = convolve2d(image, kernel)[::5, ::5]
    return result


def _convolve_pair(pair: tuple[Array, Array]) -> Array:
    return convolve(*pair)


_image: Array


def _attach(shared: Any, size: int) -> None:
    global _image
    _image = np.frombuffer(shared, np.float64).reshape(size, size)


def _convolve_shared(kernel: Array) -> Array:
    return convolve(_image, kernel)


class Program:
    """The input: 3000 x 3000 float64, and a 4 x 4 filter per core."""

    def __init__(self, cores: int, plan: Plan) -> None:
        rng = np.random.default_rng(1)
        self.cores = cores
        self.size = 3000 if plan.full else 300
        self.times = 2 if plan.full else 1
        self.image = rng.random((self.size, self.size))
        self.filters = [rng.standard_normal((4, 4)) for _ in range(cores)]

    def _timed(self, run: Any) -> Checked:
        results = run()  # everybody has imported what it needs
        samples = seconds(run, self.times)
        return Checked(samples, float(sum(result.sum() for result in results)))

    def serial(self) -> Checked:
        return self._timed(lambda: [convolve(self.image, kernel) for kernel in self.filters])

    def share(self, core: int) -> Array:
        """A core's part of the work."""
        return convolve(self.image, self.filters[core])

    warm = share  # everybody has made its first result before the clock starts

    def pool(self, pool: Any) -> Checked:
        def run() -> list[Array]:
            return pool.map(_convolve_pair, zip(self.cores * [self.image], self.filters, strict=True))  # type: ignore[no-any-return]

        return self._timed(run)

    def by_hand(self) -> Checked:
        """The image is copied into memory that the workers share with their parent."""
        shared: Any = multiprocessing.RawArray("d", self.size * self.size)
        image: Any = np.frombuffer(shared, np.float64).reshape(self.size, self.size)
        with multiprocessing.Pool(self.cores, _attach, (shared, self.size)) as pool:

            def run() -> list[Array]:
                image[:] = self.image
                return pool.map(_convolve_shared, self.filters, 1)

            return self._timed(run)

    def remote(self, api: Any, **how: Any) -> Checked:
        """`how` goes to put(): Shoal's mutable=True is what Ray does not have."""
        f = api.remote(convolve)

        def run() -> list[Array]:
            image = api.put(self.image, **how)
            return api.get([f.remote(image, kernel) for kernel in self.filters])  # type: ignore[no-any-return]

        return self._timed(run)
