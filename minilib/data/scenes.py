"""Rendered image-caption pairs: one to three coloured shapes, and a caption that says exactly what is seen.

    object  = size x colour x shape           2 x 10 x 6 = 120 kinds
    scene   = objects in different cells      of a 3 x 3 board, named in reading order, row by row
    caption = kind_1  relation(cell_1, cell_2)  kind_2  relation(cell_2, cell_3)  kind_3
            "a small red circle above and left of a large blue square left of a small green ring"

The order is fixed, so **one picture has exactly one caption**: else "a ring below a square" would compete with "a
square above a ring", and a perfect model would be punished. (One caption has many pictures: cells are left unsaid.)
There are 120 + 120^2 * 4 + 120^3 * 16 = 27,705,720 captions. Taught in notebooks/07_train_with_giant_batches.ipynb.
"""

from __future__ import annotations

from itertools import combinations
from operator import index
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from minilib.data.rows import as_dataset, draw_rows, positive_int

if TYPE_CHECKING:
    from datasets import Dataset

SIZES = ("small", "large")
COLOURS = {
    "red": (230, 40, 40),
    "orange": (255, 140, 0),
    "yellow": (250, 230, 40),
    "green": (30, 160, 60),
    "cyan": (60, 220, 230),
    "blue": (50, 90, 255),
    "purple": (140, 60, 200),
    "pink": (255, 130, 190),
    "brown": (140, 85, 40),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
RELATIONS = ("above", "left of", "above and left of", "above and right of")
BACKGROUND = (24, 26, 34)
KINDS = [f"a {size} {colour} {shape}" for size in SIZES for colour in COLOURS for shape in SHAPES]
PLACES = {n: np.array(list(combinations(range(9), n))) for n in (1, 2, 3)}  # cells in reading order
NUMBER, OBJECTS, KIND, CELL, DOWN, RIGHT = 0, 1, 2, 5, 8, 11  # columns of a drawn row; the last four hold 3 each
CHUNK = 4096  # scenes painted at a time: bounds the index arrays, not the result


def render_scenes(
    count: int, *, seed: int = 0, image_size: int = 32, objects: tuple[int, int] = (1, 3), unique: bool = True
) -> tuple[Tensor, list[str]]:
    """Draw `count` scenes: images `(count, 3, image_size, image_size)` uint8 and their captions, at most 20 words each.

    count: scenes, at least 1. seed: a non-negative integer; scene k of a seed does not depend on `count`.
    image_size: side in pixels, at least 32. objects: fewest and most objects, within 1 and 3.
    unique: no caption twice. Raises ValueError when more unique scenes are asked for than exist, and says how many do.
    """
    count, seed = positive_int(count, "count"), positive_int(seed, "seed", least=0)
    positive_int(image_size, "image_size", least=32)
    low, high = _object_range(objects)
    exist = number_of_captions((low, high))
    if unique and count > exist:
        raise ValueError(
            f"count={count} unique scenes were asked for but only {exist} exist with objects={objects}: "
            "ask for fewer, allow more objects, or pass unique=False."
        )
    rows = draw_rows(lambda generator, n: _draw(generator, n, low, high), count, seed=seed, unique=unique)
    return _paint(rows, image_size), _captions(rows)


def scenes_dataset(count: int, **settings) -> Dataset:
    """The scenes of `render_scenes`, with its arguments, as a `datasets.Dataset` of columns `image` and `caption`."""
    return as_dataset(*render_scenes(count, **settings))


def number_of_captions(objects: tuple[int, int] = (1, 3)) -> int:
    """How many different captions exist for scenes of `objects` (fewest, most) objects."""
    low, high = _object_range(objects)
    return sum(len(KINDS) ** n * len(RELATIONS) ** (n - 1) for n in range(low, high + 1))


def vocabulary() -> list[str]:
    """Every word that a caption may use, sorted."""
    return sorted({word for phrase in (*KINDS, *RELATIONS) for word in phrase.split()})


def relation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Index into RELATIONS for cells 0..8, `first` before `second` in reading order; arrays of equal shape."""
    down, right = second // 3 - first // 3, second % 3 - first % 3
    return np.where(down == 0, 1, np.where(right == 0, 0, np.where(right > 0, 2, 3)))


def stamps(image_size: int = 32) -> np.ndarray:
    """The silhouettes, `(size, shape, side, side)` bool; small ones stand in the middle of the large one's frame."""
    radii = _radii(image_size)
    y, x = np.mgrid[-radii[1] : radii[1] + 1, -radii[1] : radii[1] + 1]
    return np.stack([_silhouettes(x / radius, y / radius, slack=0.3 / radius) for radius in radii])


def _radii(image_size: int) -> tuple[int, int]:
    return round(image_size / 16), image_size // 8


def _silhouettes(u: np.ndarray, v: np.ndarray, slack: float) -> np.ndarray:
    # The slack of a third of a pixel keeps the smallest shapes, five pixels wide, from looking alike.
    round_, box = np.hypot(u, v), np.maximum(abs(u), abs(v))
    circle = round_ <= 1 + slack
    triangle = (abs(u) <= (v + 1) / 2) & (v <= 1)
    cross = (np.minimum(abs(u), abs(v)) <= 0.3) & (box <= 1)
    ring = circle & (round_ > 0.5 + slack)
    return np.stack([circle, box <= 1, triangle, abs(u) + abs(v) <= 1, cross, ring])  # the order of SHAPES


def _object_range(objects: tuple[int, int]) -> tuple[int, int]:
    try:
        low, high = (index(n) for n in objects)
    except (TypeError, ValueError):
        raise TypeError(f"objects must be a pair (fewest, most), got {objects!r}: pass for example (1, 3).") from None
    if not 1 <= low <= high <= 3:
        raise ValueError(f"objects must be a pair 1 <= fewest <= most <= 3, got {objects!r}: pass for example (1, 3).")
    return low, high


def _draw(generator: np.random.Generator, n: int, low: int, high: int) -> np.ndarray:
    """n random scenes as rows (caption number, objects, 3 kinds, 3 cells, 3 shifts down, 3 shifts right)."""
    weights = 4.0 ** np.arange(low, high + 1)
    objects = generator.choice(np.arange(low, high + 1), size=n, p=weights / weights.sum())
    kinds = generator.integers(len(KINDS), size=(n, 3))
    shifts = generator.integers(256, size=(n, 6))  # scaled to pixels when painted, so that any image size will do
    place, cells = generator.random(n), np.zeros((n, 3), dtype=np.int64)
    for k in range(low, high + 1):
        mine = objects == k
        cells[mine, :k] = PLACES[k][(place[mine] * len(PLACES[k])).astype(np.int64)]
    return np.column_stack([_caption_number(objects, kinds, cells), objects, kinds, cells, shifts])


def _caption_number(objects: np.ndarray, kinds: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """One integer for each caption, equal only where the captions are equal: the words as digits."""
    number = objects * len(KINDS) + kinds[:, 0]
    for k in (1, 2):
        word = relation(cells[:, k - 1], cells[:, k]) * len(KINDS) + kinds[:, k]
        number = number * len(RELATIONS) * len(KINDS) + np.where(objects > k, word, 0)
    return number


def _captions(rows: np.ndarray) -> list[str]:
    relations = relation(rows[:, CELL : CELL + 2], rows[:, CELL + 1 : CELL + 3])
    phrases = []
    for objects, kinds, joints in zip(rows[:, OBJECTS].tolist(), rows[:, KIND:CELL].tolist(), relations.tolist()):
        phrase = KINDS[kinds[0]]
        for k in range(1, objects):
            phrase += f" {RELATIONS[joints[k - 1]]} {KINDS[kinds[k]]}"
        phrases.append(phrase)
    return phrases


def _paint(rows: np.ndarray, image_size: int) -> Tensor:
    images = np.empty((len(rows), image_size, image_size, 3), dtype=np.uint8)
    images[:] = BACKGROUND
    silhouettes, colours = stamps(image_size), np.array(list(COLOURS.values()), dtype=np.uint8)
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        for k in range(3):
            _stamp(images[part], rows[part], k, silhouettes, colours)
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))  # (n, 3, H, W)


def _stamp(images: np.ndarray, rows: np.ndarray, k: int, silhouettes: np.ndarray, colours: np.ndarray) -> None:
    """Paint object k of every scene that has one, all scenes at once."""
    mine = np.flatnonzero(rows[:, OBJECTS] > k)
    kind, cell, down, right = (rows[mine, column + k] for column in (KIND, CELL, DOWN, RIGHT))
    size, colour, shape = np.unravel_index(kind, (len(SIZES), len(COLOURS), len(SHAPES)))
    side, reach = images.shape[1], silhouettes.shape[-1] // 2
    # Small objects move by as much as large ones stand out further, so nothing leaves its cell.
    room = np.where(size == 0, reach - _radii(side)[0], 0)
    top, left = (
        (2 * place + 1) * side // 6 - reach + shift * (2 * room + 1) // 256 - room
        for place, shift in ((cell // 3, down), (cell % 3, right))
    )
    n, y, x = np.nonzero(silhouettes[size, shape])
    images[mine[n], top[n] + y, left[n] + x] = colours[colour[n]]
