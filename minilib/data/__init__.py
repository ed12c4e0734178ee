"""Pairs of images and captions, always a `datasets.Dataset` with the columns `image` and `caption`.

scenes.py renders them, digits.py builds them from real handwriting, files.py reads your own; rows.py is what they share.
"""

from .scenes import render_scenes, scenes_dataset, vocabulary

__all__ = ["render_scenes", "scenes_dataset", "vocabulary"]
