"""Your own pairs of images and captions, in the columns that minilib reads.

    a folder       images with a metadata.jsonl (.csv, .parquet) of `file_name` and caption, or with a .txt each; COCO's
                   captions; shards of Parquet or webdataset; what `save_to_disk` wrote
    a file         JSON Lines, JSON, CSV, TSV, Parquet, Arrow, tar; paths of images are relative to it
    loaded         a `datasets.Dataset`, or a DatasetDict with the split by name; a name on the hub

A caption may be a list of captions: each becomes a row, and the picture is kept once. One pass looks at every row and
opens every picture; its error lists the first ten bad rows and counts the rest. Paths must stay inside the data folder.
Taught in notebooks/07_train_with_giant_batches.ipynb.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from minilib.common import Notice
from minilib.data.images import BASE64, read_picture
from minilib.data.rows import positive_int
from minilib.data.table_files import IMAGE_COLUMNS, names_of
from minilib.data.tables import open_table

if TYPE_CHECKING:
    from datasets import Dataset

CAPTION_COLUMNS = (
    "caption", "captions", "text", "texts", "title", "txt", "sentence", "sentences", "description", "alt_text", "alt",
    "raw_caption", "raw", "comment", "comments",
)  # fmt: skip
OF_A_CLASS = "a photo of a {}."  # the caption of a row that has a class and no caption
LISTED = 10  # bad rows that an error names


class Columns(NamedTuple):
    """Where the image and the text of a row are, and the names of the classes where the text is a class."""

    image: str
    text: str
    is_label: bool = False
    classes: tuple[str, ...] = ()


def load_pairs(
    source: str | Path | Dataset,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    label_column: str | None = None,
    image_size: int | None = 32,
    split: str | None = None,
    image_folder: str | Path | None = None,
    allow_outside: bool = False,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """Read pairs into a `datasets.Dataset` with the columns `image` and `caption`, as the scenes have them.

    Reading k rows gives images `(k, 3, image_size, image_size)` uint8 and a list of k captions. Images are turned
    upright and to RGB, cut to a centred square and resized.

    source: as above. split: its name, by default "train" or the only one. image_column, caption_column: found by their
    names where you give none. label_column: of classes, which become captions. image_size: None leaves pictures as
    they are, pillow images of their own sizes. image_folder: what paths are relative to and must not leave, by default
    the data folder; allow_outside: whether they may. cache_dir: where `datasets` keeps what it has read, by default its
    own cache; pictures cut to size lie there while the pairs are in use. A Notice tells which columns were
    found.
    Raises ValueError for a missing path or column, or rows without a caption or with an unreadable image.
    """
    size = None if image_size is None else positive_int(image_size, "image_size", least=8)
    table, folder = open_table(source, cache_dir, split=split, allow_outside=allow_outside)
    columns = find_columns(table, image_column, caption_column, label_column)
    table = undecoded(table.select_columns([columns.image, columns.text]), columns.image)
    name = Path(source).name if isinstance(source, (str, Path)) else None
    reader = PictureReader(size, root_of(image_folder, folder), allow_outside)
    collect = _Collect(columns, reader, name)
    place = _Folder(cache_dir) if table.cache_files else None  # a table in memory stays there
    pictures = table.map(
        collect, batched=True, batch_size=64, with_indices=True, remove_columns=table.column_names,
        features=_features(size), load_from_cache_file=False, new_fingerprint=uuid.uuid4().hex[:16],
        cache_file_name=str(place.path / "pictures.arrow") if place else None,
    )  # fmt: skip
    collect.raise_faults()
    return collect.pairs(pictures if size else table.select_columns([columns.image]), place)


def find_columns(table, image: str | None, caption: str | None, label: str | None) -> Columns:
    """The columns of image and text: those that are named, or else those that are called so."""
    from datasets import ClassLabel, Image

    if caption and label:
        raise ValueError(f"caption_column is {caption!r} and label_column {label!r}: give one of the two.")
    names = names_of(table)
    if not names:
        raise ValueError("source must hold at least one pair, got an empty table: pass a source with rows.")
    features = table.features or {}
    typed = [name for name in names if isinstance(features.get(name), Image)]
    lower = {name.lower(): name for name in reversed(names)}
    found_image = image or next((lower[name] for name in IMAGE_COLUMNS if name in lower), None)
    if image is None and len(typed) == 1:
        found_image = typed[0]
    text = label or caption or next((lower[name] for name in CAPTION_COLUMNS if name in lower), None)
    for column, default in ((found_image, "image"), (text, "caption")):
        if column not in names:
            url = " (a url is an address: download the pictures first)" if {"url", "image_url"} & set(lower) else ""
            more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
            raise ValueError(
                f"source has no column {column or default!r}, only {names[:LISTED]}{more}{url}: name the right one "
                "with image_column or caption_column, or a column of classes with label_column."
            )
    if (found_image, text) != (image or "image", label or caption or "caption"):
        warnings.warn(f"columns: {found_image!r} is the image, {text!r} the caption.", Notice, stacklevel=3)
    feature = features.get(text)
    return Columns(found_image, text, bool(label), tuple(feature.names) if isinstance(feature, ClassLabel) else ())


def undecoded(table, column: str):
    """The table with its images as they are stored: a broken one is then named by its row."""
    from datasets import Image

    if getattr(table, "format", None) and table.format["type"] == "custom":
        return table  # a transform of the caller's stays
    if hasattr(table, "format"):
        table = table.with_format(None)
    feature = (table.features or {}).get(column)  # of a stream, they may be unknown
    return table.cast_column(column, Image(decode=False)) if isinstance(feature, Image) else table


def captions_of(row_text: Any, columns: Columns) -> list[str]:
    """The captions of a row. Raises ValueError, for a sentence about the row, where one is missing or no text."""
    if columns.is_label:
        if isinstance(row_text, int) and columns.classes:
            known = 0 <= row_text < len(columns.classes)  # -1 is a row without a class
            row_text = columns.classes[row_text] if known else None
        row_text = None if row_text is None else OF_A_CLASS.format(str(row_text).replace("_", " "))
    texts = list(row_text) if isinstance(row_text, (list, tuple, np.ndarray)) else [row_text]
    if any(isinstance(text, dict) for text in texts):  # such as the sentences of Flickr30k, each with raw and tokens
        texts = [next((t[n] for n in CAPTION_COLUMNS if n in t), t) if isinstance(t, dict) else t for t in texts]
    for text in texts or [None]:
        if text is None or (isinstance(text, str) and not text.strip()):
            raise ValueError(f"no {columns.text!r}")
        if not isinstance(text, str):
            raise ValueError(f"a {type(text).__name__} as {columns.text!r}")
    return texts


class PictureReader:
    """From the cell of a table to a picture: of `size` pixels on each side as `(3, size, size)` bytes, or as it is."""

    def __init__(self, size: int | None, folder: str | Path | None, allow_outside: bool):
        self.size, self.folder, self.allow_outside = size, folder, allow_outside

    def __call__(self, value: Any):
        picture = read_picture(value, self.folder, self.allow_outside)
        if self.size is None:
            return picture
        picture = ImageOps.fit(picture, (self.size, self.size), Pillow.Resampling.BICUBIC)
        return np.asarray(picture).transpose(2, 0, 1).tobytes()

    def fault(self, value: Any, column: str, error: Exception, row: str, of: str) -> str:
        """What is wrong with the picture, in words."""
        path = value.get("path") if isinstance(value, dict) else value
        file = f", file {path:.100}" if isinstance(path, str) and not BASE64.fullmatch(path) else ""
        why = str(error).strip().splitlines()[0][:200] if str(error).strip() else "broken"
        why = "no picture that pillow knows" if isinstance(error, UnidentifiedImageError) else why
        return f"an unreadable {column!r} in row {row} ({type(error).__name__}){of}{file}, {why}"


class _Collect:
    """Goes through a table once: keeps captions and the number of their picture, and what is wrong with which row."""

    def __init__(self, columns: Columns, reader: PictureReader, name: str | None):
        self.columns, self.reader = columns, reader
        self.of = f" of {name}" if name else ""
        self.number_of: dict[Any, int] = {}
        self.images, self.captions, self.faults, self.bad = [], [], [], 0

    def __call__(self, rows: dict, numbers: list[int]) -> dict:
        kept = []
        for image, text, number in zip(rows[self.columns.image], rows[self.columns.text], numbers):
            try:
                if image is None or (isinstance(image, str) and not image.strip()):
                    raise ValueError(f"no {self.columns.image!r}")
                texts = captions_of(text, self.columns)
            except ValueError as error:
                self._note(f"{error} in row {number}{self.of}")
                continue
            key = key_of(image)
            if key not in self.number_of:
                try:
                    picture = self.reader(image)
                except Exception as error:
                    self._note(self.reader.fault(image, self.columns.image, error, number, self.of))
                    continue
                self.number_of[key] = number if self.reader.size is None else len(self.number_of)
                kept.append(picture if self.reader.size else number)
            self.images += [self.number_of[key]] * len(texts)
            self.captions += texts
        return {"image": kept}

    def _note(self, fault: str) -> None:
        self.bad += 1
        if len(self.faults) < LISTED:
            self.faults.append(fault)

    def raise_faults(self) -> None:
        """One sentence about all bad rows."""
        if self.bad == 1:
            raise ValueError(f"source has {self.faults[0]}: fill or replace the field, or drop the row.")
        if self.bad:
            more = f"; and {self.bad - LISTED:,} more" if self.bad > LISTED else ""
            raise ValueError(f"source has {'; '.join(self.faults)}{more}: fix these rows or drop them.")

    def pairs(self, pictures: Dataset, place: _Folder | None) -> Dataset:
        """The rows: a caption with the number of its picture, which is looked up when the row is read."""
        from datasets import Dataset

        table = Dataset.from_dict({"image": self.images, "caption": self.captions})
        return table.with_transform(_PicturesByNumber(pictures, self.columns.image, self.reader, place))


class _Folder:
    """A folder that goes when nothing in this process holds it any more; copies are the same folder."""

    def __init__(self, parent: str | Path | None):
        from datasets import config

        parent = Path(parent or config.HF_DATASETS_CACHE)
        parent.mkdir(parents=True, exist_ok=True)
        self.path = Path(tempfile.mkdtemp(prefix="minilib-pairs-", dir=parent))
        weakref.finalize(self, _remove, self.path, os.getpid())

    def __deepcopy__(self, memo: dict) -> _Folder:
        return self

    def __reduce__(self) -> tuple:
        return str, ()  # another process, such as a worker that loads rows, reads and removes nothing


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a process that was forked off
        shutil.rmtree(path, ignore_errors=True)


class _PicturesByNumber:
    """The transform behind `image`: numbers of pictures become the pictures."""

    def __init__(self, pictures: Dataset, column: str, reader: PictureReader, place: _Folder | None):
        if reader.size is not None:
            pictures = pictures.with_format(None)
        self.pictures, self.column, self.reader, self.place = pictures, column, reader, place

    def __call__(self, rows: dict) -> dict:
        if "image" not in rows:  # only captions were asked for
            return rows
        if self.reader.size is None:
            return {**rows, "image": [self.reader(cell) for cell in self.pictures[rows["image"]][self.column]]}
        return {**rows, "image": as_pixels(self.pictures[rows["image"]]["image"], self.reader.size)}


def as_pixels(pictures: list[bytes], size: int) -> torch.Tensor:
    """The bytes of k pictures as one uint8 tensor `(k, 3, size, size)`."""
    return torch.frombuffer(bytearray(b"".join(pictures)), dtype=torch.uint8).view(-1, 3, size, size)


def key_of(image: Any) -> Any:
    """What two cells have in common that hold the same picture: the path, or a digest of the content."""
    if isinstance(image, dict):
        image = image.get("path") if image.get("bytes") is None else image["bytes"]
    if isinstance(image, (str, int, float)) or image is None:
        return str(image)
    if isinstance(image, Pillow.Image):
        return hashlib.blake2b(repr(image.size).encode() + image.tobytes(), digest_size=16).digest()
    if not isinstance(image, (bytes, bytearray)):
        array = image.numpy() if isinstance(image, torch.Tensor) else image
        image = array.tobytes() if isinstance(array, np.ndarray) else repr(array).encode()
    return hashlib.blake2b(image, digest_size=16).digest()


def root_of(image_folder, folder):
    """What the paths of images are relative to."""
    if image_folder is None:
        return folder
    if not Path(image_folder).is_dir():
        raise ValueError(f"image_folder {str(image_folder)!r} is no folder: give the one that the paths start from.")
    return str(image_folder)


def _features(size: int | None):
    from datasets import Features, Value

    return Features({"image": Value(f"fixed_size_binary[{3 * size * size}]" if size else "int64")})
