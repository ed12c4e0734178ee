"""Written characters with their official names: real image-caption pairs, drawn from fonts that come with matplotlib.

    image    = one character in one of sixteen faces (DejaVu Sans, Mono and Serif, STIX), black on white, on a baseline
    caption  = its Unicode name in lower case: "cyrillic small letter zhe with breve"

People wrote the names, letter by letter out of parts that come again, so a model can name what it has never seen.
**Splits are by character**: what is drawn in the test split is drawn nowhere else, in no face. Characters that one face
draws alike (Latin A, Greek Alpha, Cyrillic A) are one *outline*: all of them lie in one split. Training pairs keep the
names of all, as the world does; test and validation hold the first character of each outline alone, so that nothing
there has two right answers.

7,338 characters, 6,130 outlines, 54,097 drawings. None of it depends on Python's version: the fonts are older than the
Unicode of Python 3.11, and a name once given never changes. Another version of the fonts would add characters; another
FreeType (inside Pillow) may move a grey level. Taught in notebooks/07_train_with_giant_batches.ipynb.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from minilib.data.rows import as_dataset, draw_rows, positive_int

if TYPE_CHECKING:
    from datasets import Dataset

FACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)
SPLITS = ("train", "validation", "test")
TEST, VALIDATION = 1_000, 500  # outlines; the others are for training
COMPARED = 32  # pixels of the drawings that are compared, to find characters of one outline
FACE, CODE, OUTLINE = 0, 1, 2  # columns of the table of drawings
PLAIN = 128  # a style number from 0 to 256 that changes nothing
TURN, SHRINK, SHIFT = 8.0, 0.25, 0.05  # most degrees either way, share of the size, share of the image either way


def render_glyphs(
    count: int, *, seed: int = 0, split: str = "train", faces: Sequence[str] | None = None, image_size: int = 32,
    unique: bool = False, fold: int = 0,
) -> tuple[Tensor, list[str]]:  # fmt: skip
    """Draw `count` characters: images `(count, 3, image_size, image_size)` uint8 and their names.

    count: pairs, at least 1. seed: a non-negative integer; pair k of a seed does not depend on `count`.
    split: "train" (drawn in changing sizes, places and small turns), "validation" or "test" (all drawn plainly).
    faces: some of `FACES`, by default all; which characters a split holds does not depend on them.
    unique: no name twice. Raises ValueError when more are asked for than exist, and says how many do.
    fold: which 1,000 outlines are the test split, 0 or more; each number is another draw.
    """
    count, seed = positive_int(count, "count"), positive_int(seed, "seed", least=0)
    fold, image_size = positive_int(fold, "fold", least=0), positive_int(image_size, "image_size", least=32)
    mine = _drawings(split, faces, fold)
    names = len(np.unique(mine[:, CODE]))
    if unique and count > names:
        raise ValueError(
            f"count={count} unique names were asked for but only {names} exist in split {split!r} with these faces: "
            "ask for fewer, or pass unique=False."
        )
    rows = draw_rows(
        lambda generator, n: _draw(generator, n, mine, plain=split != "train"), count, seed=seed, unique=unique
    )
    return _paint(rows, image_size), [name_of(code) for code in rows[:, 0].tolist()]


def glyphs_dataset(count: int, **settings) -> Dataset:
    """The characters of `render_glyphs`, with its arguments, as a `datasets.Dataset` of columns `image`, `caption`."""
    return as_dataset(*render_glyphs(count, **settings))


def outline_numbers(captions: Sequence[str]) -> Tensor:
    """A number `(n,)` for each name: equal where some face draws the two characters alike, -1 for other captions."""
    codes = {int(code): int(outline) for code, outline in np.unique(all_drawings()[:, CODE:], axis=0)}
    found = {name_of(code): outline for code, outline in codes.items()}
    return torch.tensor([found.get(caption, -1) for caption in captions])


def name_of(code: int) -> str:
    """The official name of a character in lower case."""
    return unicodedata.name(chr(code)).lower()


@cache
def all_drawings() -> np.ndarray:
    """Every drawing of every face, `(54097, 3)` int64: face, character, outline (its first character)."""
    first: dict = {}  # what a drawing looks like: the first character that looked so
    parent: dict[int, int] = {}
    rows = []
    for face, name in enumerate(FACES):
        font = _font(name, COMPARED)
        for code in _named_characters(name):
            mask, offset = font.getmask2(chr(code), mode="L")
            if mask.getbbox() is None:  # blanks
                continue
            rows.append((face, code))
            looks = (mask.size, offset, bytes(mask))
            parent.setdefault(code, code)
            # Two that look alike anywhere, and those that look like one of them, are one outline.
            one, other = sorted((_root(parent, first.setdefault(looks, code)), _root(parent, code)))
            parent[other] = one
    return np.array([(face, code, _root(parent, code)) for face, code in rows])


def _root(parent: dict[int, int], code: int) -> int:
    while parent[code] != code:
        code = parent[code]
    return code


def _named_characters(face: str) -> list[int]:
    """The characters that a face has a drawing for (its character map leaves out .notdef) and Unicode a name."""
    from matplotlib.ft2font import FT2Font

    return [code for code in sorted(FT2Font(str(_path(face))).get_charmap()) if unicodedata.name(chr(code), "")]


def _path(face: str) -> Path:
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    if not path.exists():
        raise FileNotFoundError(f"matplotlib's fonts lack {path}: install matplotlib from the Python package index.")
    return path


@lru_cache(maxsize=len(FACES) * 32)
def _font(face: str, pixels: int):
    from PIL import ImageFont

    # The other layout engine is not in every build of Pillow, and joins or moves some characters.
    return ImageFont.truetype(str(_path(face)), pixels, layout_engine=ImageFont.Layout.BASIC)


def _drawings(split: str, faces: Sequence[str] | None, fold: int) -> np.ndarray:
    """The rows of `all_drawings` that belong to a split and to these faces."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}: pass one of these.")
    chosen = list(FACES if faces is None else faces)
    if isinstance(faces, str) or not chosen or not set(chosen) <= set(FACES):
        raise ValueError(f"faces must hold some of {', '.join(FACES)}, got {faces!r}: pass a list of these.")
    table = all_drawings()
    # By a hash, so that a character that new fonts add moves hardly another one to another split.
    order = sorted(np.unique(table[:, OUTLINE]).tolist(), key=lambda outline: _hash(f"{fold} {outline}"))
    parts = {"test": order[:TEST], "validation": order[TEST : TEST + VALIDATION], "train": order[TEST + VALIDATION :]}
    kept = np.isin(table[:, OUTLINE], parts[split]) & np.isin(table[:, FACE], [FACES.index(face) for face in chosen])
    if split != "train":
        kept &= table[:, CODE] == table[:, OUTLINE]
    return table[kept]


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _draw(generator: np.random.Generator, n: int, mine: np.ndarray, plain: bool) -> np.ndarray:
    """n random drawings as rows (character, face, style numbers of size, turn, shift down, shift right)."""
    chosen = mine[generator.integers(len(mine), size=n)]
    styles = generator.integers(2 * PLAIN + 1, size=(n, 4))
    if plain:
        styles[:] = PLAIN
    return np.column_stack([chosen[:, CODE], chosen[:, FACE], styles])


def _paint(rows: np.ndarray, side: int) -> Tensor:
    """Grey levels of all drawings, the same for the three channels: `(n, 3, side, side)` uint8."""
    grey = np.stack([_picture(row, side) for row in rows.tolist()])  # (n, side, side)
    return torch.from_numpy(255 - grey)[:, None].expand(-1, 3, -1, -1).contiguous()


def _picture(row: list[int], side: int) -> np.ndarray:
    """Ink on an empty square: on a baseline, which tells a comma from an apostrophe, and in the middle of its width."""
    from PIL import Image, ImageDraw

    code, face, *styles = row
    size, turn, down, right = ((style - PLAIN) / PLAIN for style in styles)  # from -1 to 1
    char, room = chr(code), side - 2
    pixels = round(0.7 * side * (1 - SHRINK * (1 - size) / 2))
    font = _font(FACES[face], pixels)
    x0, y0, x1, y1 = font.getbbox(char, anchor="ls")  # from the baseline's beginning, upwards negative
    if max(x1 - x0, y1 - y0) > room:  # long arrows and ligatures
        font = _font(FACES[face], max(4, pixels * room // max(x1 - x0, y1 - y0)))
        x0, y0, x1, y1 = font.getbbox(char, anchor="ls")
    left = _inside((side - (x1 - x0)) / 2 + right * SHIFT * side, x1 - x0, side)
    top = _inside(0.72 * side + y0 + down * SHIFT * side, y1 - y0, side)
    image = Image.new("L", (side, side))
    ImageDraw.Draw(image).text((left - x0, top - y0), char, fill=255, font=font, anchor="ls")
    if turn:
        image = image.rotate(TURN * turn, Image.Resampling.BILINEAR)
    return np.asarray(image)


def _inside(start: float, length: int, side: int) -> int:
    return round(min(max(start, 1), max(side - 1 - length, 0)))
