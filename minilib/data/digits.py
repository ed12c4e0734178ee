"""Strips of real handwriting: scikit-learn's scanned digits side by side, and the digits as a caption in words.

    image    = k digits, each 8 x 8 pixels in 17 grey levels, enlarged to fill the width of a square RGB picture
    caption  = their names from left to right: "seven two nine"

The 1,797 scans come with scikit-learn, so nothing is downloaded; training and test strips share none of them. Careful:
k digits have only 10^k captions, so a large batch holds the same caption many times, and the contrastive loss calls
such pairs negatives. `unique=True` shows what that costs. Taught in notebooks/07_train_with_giant_batches.ipynb.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from minilib.data.rows import as_dataset, draw_rows, positive_int

if TYPE_CHECKING:
    from datasets import Dataset

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = ("train", "test")
SIDE = 8  # pixels of a scanned digit
CHUNK = 4096  # strips enlarged at a time


def render_digits(
    count: int, *, seed: int = 0, split: str = "train", digits: int = 3, image_size: int = 32, unique: bool = False
) -> tuple[Tensor, list[str]]:
    """Draw `count` strips: images `(count, 3, image_size, image_size)` uint8 and captions of `digits` words.

    count: strips, at least 1. seed: a non-negative integer; strip k of a seed does not depend on `count`.
    split: "train" or "test", which share no handwriting. digits: per strip, at least 1, each 8 pixels wide or more.
    unique: no caption twice. Raises ValueError when more than the 10^digits captions that exist are asked for.
    """
    count, seed = positive_int(count, "count"), positive_int(seed, "seed", least=0)
    digits, image_size = positive_int(digits, "digits"), positive_int(image_size, "image_size", least=32)
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}: pass one of these.")
    if digits * SIDE > image_size:
        raise ValueError(
            f"digits={digits} do not fit into image_size={image_size} at {SIDE} pixels each: "
            f"ask for at most {image_size // SIDE} digits or a larger image."
        )
    if unique and count > 10**digits:
        raise ValueError(
            f"count={count} unique strips were asked for but only {10**digits} captions exist with "
            f"digits={digits}: ask for fewer, more digits, or pass unique=False."
        )
    scans, labels = source_digits(split)
    rows = draw_rows(lambda generator, n: _draw(generator, n, labels, digits), count, seed=seed, unique=unique)
    captions = [" ".join(NAMES[label] for label in strip) for strip in labels[rows[:, 1:]].tolist()]
    return _strips(scans, rows[:, 1:], image_size), captions


def digits_dataset(count: int, **settings) -> Dataset:
    """The strips of `render_digits`, with its arguments, as a `datasets.Dataset` of columns `image` and `caption`."""
    return as_dataset(*render_digits(count, **settings))


@cache
def source_digits(split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """The scans of one split: grey levels `(n, 8, 8)` uint8 from 0 to 255, and labels `(n,)` from 0 to 9."""
    from sklearn.datasets import load_digits

    source = load_digits()
    # The last fifth of the file is for testing; it holds every digit between 33 and 37 times.
    chosen = (np.arange(len(source.target)) >= 0.8 * len(source.target)) == (split == "test")
    return (source.images[chosen] * (255 / 16)).round().astype(np.uint8), source.target[chosen]


def _draw(generator: np.random.Generator, n: int, labels: np.ndarray, digits: int) -> np.ndarray:
    """n random strips as rows (caption number, index of each scan)."""
    scans = generator.integers(len(labels), size=(n, digits))
    return np.column_stack([labels[scans] @ 10 ** np.arange(digits), scans])


def _strips(scans: np.ndarray, chosen: np.ndarray, image_size: int) -> Tensor:
    """Enlarge every scan once, lay the chosen ones side by side, and centre the strip on black."""
    count, digits = chosen.shape
    width = image_size // digits
    large = F.interpolate(torch.from_numpy(scans)[:, None].float(), size=(width, width), mode="bilinear")
    large = large.round().to(torch.uint8)[:, 0]  # (scans, width, width)
    images = torch.zeros(count, 3, image_size, image_size, dtype=torch.uint8)
    top, left = (image_size - width) // 2, (image_size - width * digits) // 2
    for k in range(digits):
        x = left + k * width
        for part, picks in zip(images.split(CHUNK), torch.from_numpy(chosen[:, k]).split(CHUNK)):
            part[:, :, top : top + width, x : x + width] = large[picks][:, None]  # one grey for the three channels
    return images
