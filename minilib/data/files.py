"""Your own pairs of images and captions in the columns that minilib reads.

    a folder       images next to a metadata.jsonl whose lines hold `file_name` and the caption
    a file         JSON Lines (image paths relative to the file), Parquet or Arrow
    a Dataset      a `datasets.Dataset` that you have already loaded, from wherever you like

`datasets` and pillow read, decode and cache; added here is a sentence with the row number where a row lacks a field.
Taught in notebooks/07_train_with_giant_batches.ipynb.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minilib.data.rows import BytesToImages, positive_int

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".arrow": "arrow"}


def load_pairs(
    source: str | Path | Dataset,
    *,
    image_column: str = "image",
    caption_column: str = "caption",
    image_size: int = 32,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """Read pairs into a `datasets.Dataset` with the columns `image` and `caption`, as the scenes have them.

    Reading k rows gives images `(k, 3, image_size, image_size)` uint8 and a list of k captions.

    source: a folder, a file or a Dataset, as above. image_column: holds images, paths, or arrays `(H, W)`, `(H, W, 3)`
    or `(3, H, W)` from 0 to 255; in a folder it is always `image`. Images are turned
    to RGB, cut to a centred square and resized.
    cache_dir: where `datasets` keeps what it has read, by default its own cache.
    Raises ValueError for a missing path, a missing column, an unreadable image, or a row without one of the fields.
    """
    size = positive_int(image_size, "image_size", least=8)
    table, folder = open_table(source, cache_dir)
    for column in (image_column, caption_column):
        if column not in table.column_names:
            raise ValueError(
                f"source has no column {column!r}, only {table.column_names}: "
                "name the right one with image_column or caption_column."
            )
    table = _undecoded(table.select_columns([image_column, caption_column]), image_column)
    pairs = table.map(
        _convert,
        with_indices=True,
        fn_kwargs={"image_column": image_column, "caption_column": caption_column, "size": size, "folder": folder},
        remove_columns=table.column_names,
        features=_features(size),
        load_from_cache_file=False,  # the cache knows the table but not the image files that it points to
    )
    return pairs.with_transform(BytesToImages((3, size, size)))


def open_table(source, cache_dir, streaming: bool = False) -> tuple[Dataset, str]:
    """The table behind `source`, and the folder that its image paths are relative to."""
    from datasets import Dataset

    if isinstance(source, Dataset):
        table, folder = source, ""
    elif isinstance(source, (str, Path)):
        path = Path(source)
        if not path.exists():
            raise ValueError(f"source {str(source)!r} does not exist: pass a folder, a file or a loaded Dataset.")
        table, folder = _read(path, cache_dir, streaming), str(path.parent)
    else:
        raise TypeError(
            f"source must be a path or a datasets.Dataset, got {type(source).__name__}: "
            "pass one split if you have a DatasetDict."
        )
    if not streaming and len(table) == 0:
        raise ValueError("source must hold at least one pair, got an empty table: pass a source with rows.")
    return table, folder


def _read(path: Path, cache_dir, streaming: bool = False) -> Dataset | IterableDataset:
    from datasets import load_dataset

    if path.is_dir():
        reader, where = "imagefolder", {"data_dir": str(path)}
        if not list(path.rglob("metadata.*")):
            raise ValueError(
                f"source {path.name!r} has images but no captions: add a metadata.jsonl with the fields "
                "file_name and caption."
            )
    elif path.suffix in READERS:
        reader, where = READERS[path.suffix], {"data_files": str(path)}
    else:
        raise ValueError(f"source {path.name!r} is of no known kind: pass a folder or one of {sorted(READERS)}.")
    try:
        return load_dataset(reader, split="train", cache_dir=cache_dir and str(cache_dir), streaming=streaming, **where)
    except Exception as error:  # the reader's own errors are many, and the innermost one says what is wrong
        cause = str(error.__cause__ or error) or type(error).__name__
        raise ValueError(f"source {path.name!r} could not be read ({cause.splitlines()[0]}): fix the file.") from error


def _undecoded(table: Dataset, column: str) -> Dataset:
    # Decoding is left to _convert, where a broken image can be named by its row. A transform of the caller's stays.
    from datasets import Image

    table = table if table.format["type"] == "custom" else table.with_format(None)
    return table.cast_column(column, Image(decode=False)) if isinstance(table.features[column], Image) else table


def _features(size: int):
    from datasets import Features, Value

    return Features({"image": Value(f"fixed_size_binary[{3 * size * size}]"), "caption": Value("string")})


def _convert(row: dict, number: int, image_column: str, caption_column: str, size: int, folder: str) -> dict:
    """One row: its caption, and its image as 3 * size * size bytes."""
    from PIL import Image, ImageOps

    image, caption = row[image_column], row[caption_column]
    for column, value in ((image_column, image), (caption_column, caption)):
        if value is None or value == "":
            raise ValueError(f"source has no {column!r} in row {number}: fill the field or drop the row.")
    if not isinstance(caption, str):
        raise ValueError(f"source has a {type(caption).__name__} as {caption_column!r} in row {number}: pass text.")
    try:
        picture = ImageOps.fit(_picture(image, folder).convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    except Exception as error:
        raise ValueError(
            f"source has an unreadable {image_column!r} in row {number} ({type(error).__name__}): "
            "replace the image or drop the row."
        ) from error
    return {"image": np.asarray(picture).transpose(2, 0, 1).tobytes(), "caption": caption}


def _picture(image, folder: str):
    """A pillow image from a path, from encoded bytes, or from an array."""
    from io import BytesIO

    from PIL import Image

    if isinstance(image, dict):  # how `datasets` keeps an image that is not decoded
        image = BytesIO(image["bytes"]) if image["bytes"] else image["path"]
    if isinstance(image, bytes):
        image = BytesIO(image)
    if isinstance(image, (str, BytesIO)):
        return Image.open(Path(folder, image) if isinstance(image, str) else image)
    return Image.fromarray(_pixels(np.asarray(image)))


def _pixels(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "ui" or array.min() < 0 or array.max() > 255:
        raise TypeError("an array must hold whole numbers from 0 to 255")
    channels_first = array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3
    return np.ascontiguousarray(array.transpose(1, 2, 0) if channels_first else array, dtype=np.uint8)
