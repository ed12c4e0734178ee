"""What every source of pairs shares: drawing rows without repeats, and keeping them as a `datasets` table.

Rows are drawn in blocks of fixed size, block number c from the generator seeded with (seed, c), so row k of a seed is
the same whether ten rows or a million are asked for. An image is one run of 3 * H * W bytes in an Arrow column, which
reads 512 rows some twenty times quicker than the nested lists of `datasets` (Array3D).
Taught in notebooks/07_train_with_giant_batches.ipynb.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from datasets import Dataset

BLOCK = 8192


def draw_rows(draw: Callable, count: int, *, seed: int, unique: bool) -> np.ndarray:
    """The first `count` rows of a seed, `(count, columns)` int64.

    `draw(generator, n)` returns n random rows `(n, columns)`; the first column is the number of the row's caption.
    With `unique` a row whose caption has been seen is passed over. The caller makes sure that enough captions exist.
    """
    rows, block = np.empty((0, 0), dtype=np.int64), 0
    while len(rows) < count:
        # Twice as many blocks each time: the search for repeats then costs a few sorts, not one for each block.
        ends = max(2 * block, -(-count // BLOCK), 1)
        drawn = [draw(np.random.default_rng((seed, c)), BLOCK) for c in range(block, ends)]
        rows, block = np.concatenate([rows, *drawn] if len(rows) else drawn), ends
        if unique:
            first = np.unique(rows[:, 0], return_index=True)[1]
            rows = rows[np.sort(first)]
    return rows[:count]


def as_dataset(images: Tensor, captions: Sequence[str]) -> Dataset:
    """Keep images `(n, 3, H, W)` uint8 and n captions as an in-memory `datasets.Dataset`, without copying the images.

    Reading a list of indices gives `image`, a uint8 tensor `(k, 3, H, W)`, and `caption`, a list of k strings.
    """
    import pyarrow as pa
    from datasets import Dataset

    pixels = np.ascontiguousarray(images.numpy())
    kind = pa.binary(pixels[0].size)
    column = pa.FixedSizeBinaryArray.from_buffers(kind, len(pixels), [None, pa.py_buffer(pixels.reshape(-1))])
    table = pa.table({"image": column, "caption": pa.array(captions, pa.string())})
    return Dataset(table).with_transform(BytesToImages(tuple(pixels.shape[1:])))


class BytesToImages:
    """The transform behind `image`: the bytes of k rows become one uint8 tensor `(k, 3, H, W)`."""

    def __init__(self, shape: tuple[int, int, int]):
        self.shape = shape

    def __call__(self, rows: dict) -> dict:
        if "image" not in rows:  # only captions were asked for
            return rows
        pixels = torch.frombuffer(bytearray(b"".join(rows["image"])), dtype=torch.uint8)
        return {**rows, "image": pixels.view(-1, *self.shape)}


def positive_int(value: int, name: str, *, least: int = 1) -> int:
    """Return `value` if it is an integer of at least `least`, else raise one sentence that names the argument."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer of at least {least}, got {value!r}: pass a whole number.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}: pass a larger number.")
    return int(value)
