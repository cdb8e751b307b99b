"""The real data the demo works on: a photograph and a text that are installed already.

Nothing is downloaded. The photograph ships with scikit-learn. The text is the reference manual of the Python
language, which ships with Python itself (it is what `help("with")` prints).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

PHOTOGRAPHS = ("china", "flower")


@dataclass(frozen=True)
class Text:
    """All documents in one array of UTF-8 bytes; document i is `data[starts[i]:starts[i + 1]]`."""

    data: NDArray[np.uint8]
    starts: NDArray[np.int64]

    def shares(self, parts: int) -> list[tuple[int, int]]:
        """Byte ranges of whole documents, about equally long."""
        wanted = np.linspace(0, len(self.data), parts + 1)
        cuts = np.unique(self.starts[np.searchsorted(self.starts, wanted)])
        return list(pairwise(cuts.tolist()))


def load_photograph(name: str, width: int) -> NDArray[np.uint8]:
    """The photograph, enlarged to `width` pixels."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    image = Image.fromarray(load_sample_image(f"{name}.jpg"))
    height = round(image.height * width / image.width)
    return np.array(image.resize((width, height), Image.Resampling.LANCZOS))


def load_text() -> Text:
    """The chapters of Python's reference manual."""
    from pydoc_data.topics import topics

    documents = [topics[name].encode() for name in sorted(topics)]
    starts = np.concatenate([[0], np.cumsum([len(document) for document in documents])])
    return Text(np.frombuffer(b"".join(documents), np.uint8), starts.astype(np.int64))
