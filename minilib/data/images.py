"""Pictures of every kind as upright RGB: files, encoded bytes, pillow images and arrays.

    files and bytes   what pillow reads, also as base64, turned as EXIF says; transparent pixels lie on white
    16 bits           0..65,535 becomes 0..255; where no value is above 255 they are taken as 0..255 already
    floats            0..1 or 0..255; anything else is an error, since a guess would be a black or a white picture
    arrays            (H, W), (H, W, c) or (c, H, W) with c of 1, 3 or 4; booleans, whole numbers or floats

A path must lie inside the data folder once links are followed: a table from somewhere else cannot make its reader open
other files. Errors are ValueError, TypeError or OSError with the reason; who reads the table adds file and row.
"""

from __future__ import annotations

import re
import warnings
from base64 import b64decode
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

OTHERS = ("EPS", "WMF")  # for these pillow starts another program, Ghostscript, or asks the system
BASE64 = re.compile(r"(?:data:image/[\w.+-]+;base64,)?([A-Za-z0-9+/\s]{64,}={0,2}\s*)")
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2")


def read_picture(value: Any, folder: str | Path | None = None, allow_outside: bool = False) -> Image.Image:
    """The picture behind a cell of a table, upright and in RGB.

    value: a path, encoded bytes, the dictionary of bytes and path that `datasets` keeps, a pillow image, or an array.
    folder: what relative paths are relative to; None takes paths as they are, of tables that you have loaded yourself.
    allow_outside: whether a path may lead out of `folder`.
    """
    if isinstance(value, dict):
        if value.get("bytes") is None and value.get("path") is None:
            raise TypeError(f"a record of {sorted(value)} with neither bytes nor a path")
        value = value["path"] if value.get("bytes") is None else value["bytes"]
    if isinstance(value, list) and value and isinstance(value[0], (str, bytes, dict, Image.Image)):
        if len(value) > 1:
            raise TypeError(f"a list of {len(value)} pictures: write a row for each")
        return read_picture(value[0], folder, allow_outside)
    if isinstance(value, str) and (found := BASE64.fullmatch(value)):
        value = b64decode(found[1])
    if isinstance(value, (bytes, bytearray)):
        value = BytesIO(value)
    elif isinstance(value, (str, Path)):
        value = place(str(value), folder, allow_outside)
    elif not isinstance(value, Image.Image):
        return to_rgb(Image.fromarray(pixels_of(value)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice as many pixels are an error
        picture = value if isinstance(value, Image.Image) else Image.open(value, formats=_formats())
        if picture.size[0] * picture.size[1] > 2 * (Image.MAX_IMAGE_PIXELS or np.inf):
            raise Image.DecompressionBombError(f"{picture.size[0]} x {picture.size[1]} pixels")
        picture.load()
    return to_rgb(ImageOps.exif_transpose(picture))


@cache
def _formats() -> tuple[str, ...]:
    """The kinds of pictures that pillow decodes by itself."""
    Image.init()
    return tuple(name for name in Image.ID if name not in OTHERS)


def place(path: str, folder: str | Path | None, allow_outside: bool = False) -> Path:
    """Where the file lies; PermissionError where that is outside of `folder` once links are followed."""
    if "://" in path or path.startswith("data:"):
        raise ValueError(f"{path!r:.60} is an address: download the pictures first")
    if "\0" in path:
        raise ValueError("a path with a zero byte")
    found = Path(folder or "", path)
    if folder is not None and not allow_outside and not is_inside(found, folder):
        raise PermissionError(f"{path!r} lies outside of the data folder: move it inside, or pass allow_outside")
    if found.is_dir():
        raise IsADirectoryError(f"{path!r} is a folder")
    if not found.exists():
        raise FileNotFoundError(f"{path!r} does not exist")
    return found


def is_inside(path: Path, folder: str | Path) -> bool:
    """Whether `path` lies in `folder` once links and dots are followed."""
    return path.resolve().is_relative_to(Path(folder).resolve())


def to_rgb(picture: Image.Image) -> Image.Image:
    """RGB of any mode: transparency on white, deep and floating-point grey scaled to 8 bits."""
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return Image.fromarray(_to_bytes(np.asarray(picture), deep=picture.mode != "F")).convert("RGB")
    if picture.mode in ("RGBA", "LA", "La", "RGBa", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def pixels_of(value: Any) -> np.ndarray:
    """An array `(H, W)` or `(H, W, 3 or 4)` uint8 of the array, tensor or nested list `value`."""
    if value is None or isinstance(value, (int, float, complex)):
        raise TypeError(f"{value!r} is a {type(value).__name__} and no picture")
    try:
        if hasattr(value, "detach"):  # a tensor; numpy has no bfloat16
            value = value.detach().cpu().float() if value.dtype.is_floating_point else value.detach().cpu()
        array = np.asarray(value)
    except ValueError as error:
        raise TypeError("a list whose rows differ in length") from error
    if array.dtype.kind not in "buif":
        raise TypeError(f"an array of {array.dtype} and no picture")
    if array.size == 0:
        raise TypeError(f"an empty array of shape {array.shape}")
    if array.dtype.kind in "iu" and array.dtype != np.uint8 and (array.min(), array.max()) == (0, 1):
        raise TypeError(f"an array of {array.dtype} with 0 and 1 alone: give booleans, or scale it to 0..255")
    return np.ascontiguousarray(_to_bytes(_channels_last(array), deep=array.dtype == np.uint16))


def _channels_last(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2:
        return array
    if array.ndim == 3:
        first, last = array.shape[0], array.shape[2]
        # Three channels are likelier than one or four, and the last place likelier than the first.
        if first == 3 != last or (first in (1, 4) and last not in (1, 3, 4)):
            array = array.transpose(1, 2, 0)
        if array.shape[2] in (1, 3, 4):
            return array[..., 0] if array.shape[2] == 1 else array
    raise TypeError(f"an array of shape {array.shape}: a picture has (H, W), (H, W, c) or (c, H, W), c of 1, 3 or 4")


def _to_bytes(values: np.ndarray, deep: bool) -> np.ndarray:
    """Numbers as uint8; `deep` whole numbers may be of 16 bits."""
    if values.dtype.kind == "b":
        return values.astype(np.uint8) * 255
    least, most = values.min(), values.max()
    if not (np.isfinite(least) and np.isfinite(most)):
        raise TypeError("NaN or infinite values")
    if values.dtype.kind == "f":
        if least < 0 or most > 255:
            raise TypeError(f"values from {least:.4g} to {most:.4g}: scale them to 0..1 or 0..255")
        return np.round(values.astype(np.float64) * (255 if most <= 1 else 1)).astype(np.uint8)
    if least < 0 or most > (65_535 if deep else 255):
        raise TypeError(f"values from {least} to {most}: scale them to 0..255")
    return np.round(values / 257).astype(np.uint8) if most > 255 else values.astype(np.uint8)
