"""Pairs in the order in which they are trained on: streams that never end, and images that come once an epoch.

    StreamedPairs    rows of a stream (`--streaming`), shuffled within a buffer, a new order every time it begins anew
    OneCaptionEach   a table whose rows share images: an epoch has every image once, with one of its captions

Both answer to `batch_indices(step, batch_size, seed)`, which `ContrastiveTrainer` asks where a dataset offers it. Two
captions of one image in a batch would be called wrong for each other, so they are never in one, epochs' ends aside.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from minilib.data.files import PictureReader, as_pixels, captions_of, find_columns, key_of, root_of, undecoded
from minilib.data.rows import positive_int
from minilib.data.table_files import unreadable
from minilib.data.tables import open_table

if TYPE_CHECKING:
    from datasets import Dataset


class StreamedPairs:
    """The first `rows` pairs of a stream that begins anew at its end; only a batch or two of them are in memory.

    Row k depends on the source, the seed and k alone, so that a resumed run sees the rows of an unbroken one; to reach
    row k, the stream is read up to there.

    source, columns, split, image_size and the rest: as in `load_pairs`. rows: how many will be drawn, steps times the
    batch. shuffle_buffer: rows among which the next one is drawn; 1 keeps the order. keep: rows that may be asked for
    once more, at least those of a batch.
    """

    def __init__(
        self,
        source,
        rows: int,
        *,
        image_size: int | None = 32,
        seed: int = 0,
        shuffle_buffer: int = 1_000,
        keep: int = 1_024,
        split: str | None = None,
        columns: dict | None = None,
        image_folder: str | Path | None = None,
        allow_outside: bool = False,
        cache_dir: str | Path | None = None,
    ):
        self.rows, self.keep = positive_int(rows, "rows"), positive_int(keep, "keep")
        self.name = Path(source).name if isinstance(source, (str, Path)) else "a stream"
        with _read_errors_told(self.name):
            table, folder = open_table(source, cache_dir, streaming=True, split=split, allow_outside=allow_outside)
            named = {name: (columns or {}).get(f"{name}_column") for name in ("image", "caption", "label")}
            self.columns = find_columns(table, **named)
        table = undecoded(table.select_columns([self.columns.image, self.columns.text]), self.columns.image)
        self.table, self.buffer = table, positive_int(shuffle_buffer, "shuffle_buffer")
        self.reader = PictureReader(image_size, root_of(image_folder, folder), allow_outside)
        self.seed, self.column_names = seed, ["image", "caption"]
        self._rewind()

    def __len__(self) -> int:
        return self.rows

    def batch_indices(self, step: int, batch_size: int, seed: int) -> Tensor:
        """Row numbers `(batch_size,)` of batch number `step`: the next ones; the stream is shuffled already."""
        if batch_size > self.keep:  # the gradient cache reads a batch twice
            self.keep, self.window = batch_size, deque(self.window, maxlen=batch_size)
        return torch.arange(step * batch_size, (step + 1) * batch_size)

    def __getitem__(self, indices) -> dict:
        """The rows of these numbers; numbers that lie far back begin the stream anew."""
        indices = list(range(self.rows))[indices] if isinstance(indices, slice) else [int(k) for k in indices]
        found = dict(self.window)
        if min(indices) < self.next and any(k not in found and k < self.next for k in indices):
            self._rewind()
            found = {}
        wanted = set(indices)
        while self.next <= max(indices):
            number, row = self.next, next(self.source)
            self.next += 1
            self.window.append((number, row))
            if number in wanted:
                found[number] = row
        rows = [self._pair(number, *found[number]) for number in indices]
        images = [image for image, _ in rows]
        images = images if self.reader.size is None else as_pixels(images, self.reader.size)
        return {"image": images, "caption": [caption for _, caption in rows]}

    def captions(self, most: int) -> Iterator[str]:
        """The captions of the first `most` rows, or of all."""
        with _read_errors_told(self.name):
            for _, row in zip(range(most), self.table):
                yield from captions_of(row[self.columns.text], self.columns)

    def fingerprint(self, rows: int = 8) -> str:
        """What tells this stream from another, of its first rows: nobody waits for the last one."""
        first = itertools.islice(self._endless(), min(rows, self.rows))
        told = [(number, key_of(image), text) for number, image, text in first]
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]

    def _rewind(self) -> None:
        self.source, self.next, self.window = self._endless(), 0, deque(maxlen=self.keep)

    def _endless(self) -> Iterator[tuple]:
        """(number in the source, image, text) of row after row, each epoch in another order."""
        epoch = 0
        while True:
            random, waiting, number = np.random.default_rng((self.seed, epoch)), [], -1
            # Our own buffer: that of `datasets` keeps a thread that takes five seconds to end.
            with _read_errors_told(self.name):
                for number, row in enumerate(self.table):
                    waiting.append((number, row[self.columns.image], row[self.columns.text]))
                    if len(waiting) == self.buffer:
                        yield _drawn(waiting, random)
            if number < 0:
                raise ValueError("source must hold at least one pair, got an empty stream: pass a source with rows.")
            while waiting:
                yield _drawn(waiting, random)
            epoch += 1

    def _pair(self, drawn: int, number: int, image, text) -> tuple:
        """Picture and caption of one row; of several captions the one that the seed and the row's turn choose."""
        try:
            if image is None or image == "":
                raise ValueError(f"no {self.columns.image!r}")
            texts = captions_of(text, self.columns)
        except ValueError as error:
            raise ValueError(f"source has {error} in row {number} of the stream: fill the field or drop it.") from error
        try:
            picture = self.reader(image)
        except Exception as error:
            fault = self.reader.fault(image, self.columns.image, error, number, " of the stream")
            raise ValueError(f"source has {fault}: replace the image or drop the row.") from error
        return picture, texts[int(np.random.default_rng((self.seed, drawn)).integers(len(texts)))]


@contextmanager
def _read_errors_told(name: str) -> Iterator[None]:
    """The errors of the readers of a stream, which come when a row is read, as one sentence that names the source."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, (ValueError, TypeError)) and str(error).startswith(("source ", "split ")):
            raise
        raise unreadable(name, error) from error


def _drawn(waiting: list, random: np.random.Generator):
    """One of the rows that wait, taken out."""
    place = int(random.integers(len(waiting)))
    waiting[place], waiting[-1] = waiting[-1], waiting[place]
    return waiting.pop()


class OneCaptionEach:
    """A table of pairs whose rows share images, as `load_pairs` makes it: as many batches as its images fill."""

    def __init__(self, pairs: Dataset):
        self.pairs = pairs
        numbers = image_numbers(pairs)
        self.by_image = np.argsort(numbers, kind="stable")  # rows, those of an image next to each other
        self.first, self.count = np.unique(numbers[self.by_image], return_index=True, return_counts=True)[1:]

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, indices) -> dict:
        return self.pairs[indices]

    def __getattr__(self, name: str):
        if name == "pairs":  # not there yet, while it is unpickled
            raise AttributeError(name)
        return getattr(self.pairs, name)

    def batch_indices(self, step: int, batch_size: int, seed: int) -> Tensor:
        """Row numbers `(batch_size,)`: each epoch a new order of the images, and a new draw of their captions."""
        epoch, number = divmod(step, len(self) // batch_size)
        generator = np.random.default_rng((seed, epoch))
        order = generator.permutation(len(self))[number * batch_size : (number + 1) * batch_size]
        draws = (generator.random(len(self)) * self.count).astype(np.int64)  # the same in every batch of the epoch
        return torch.from_numpy(self.by_image[self.first[order] + draws[order]])


def image_numbers(pairs: Dataset) -> np.ndarray:
    """The number of the image of each row `(n,)`: that of `load_pairs`, elsewhere every row has its own image."""
    if pairs.features["image"].dtype == "int64":
        return np.asarray(pairs.with_format("numpy")["image"])
    return np.arange(len(pairs))


def images_once(pairs: Dataset) -> Dataset | OneCaptionEach:
    """`pairs` to train on: as they are where no two rows share an image."""
    return pairs if len(np.unique(image_numbers(pairs))) == len(pairs) else OneCaptionEach(pairs)
