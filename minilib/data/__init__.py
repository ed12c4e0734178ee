"""Pairs of images and captions, always a `datasets.Dataset` with the columns `image` and `caption`.

scenes.py renders them, digits.py builds them from real handwriting, files.py reads your own; rows.py is what they
share.
"""

from .digits import digits_dataset, render_digits
from .files import load_pairs
from .scenes import render_scenes, scenes_dataset, vocabulary

__all__ = ["digits_dataset", "load_pairs", "render_digits", "render_scenes", "scenes_dataset", "vocabulary"]
