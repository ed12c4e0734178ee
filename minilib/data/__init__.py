"""Pairs of images and captions, always a `datasets.Dataset` with the columns `image` and `caption`; long questions.

scenes.py renders pairs, digits.py builds them from real handwriting, glyphs.py from written characters and their
names, files.py reads your own (tables.py, folders.py,
table_files.py, tars.py and images.py in whatever form they are, streams.py row by row); rows.py is what they share.
haystack.py hides facts in long English and asks for them, questions.py reads your own questions.
"""

from minilib.data.digits import digits_dataset, render_digits
from minilib.data.facts import as_prompt
from minilib.data.files import load_pairs
from minilib.data.glyphs import glyphs_dataset, render_glyphs
from minilib.data.haystack import haystack_dataset
from minilib.data.questions import load_questions
from minilib.data.scenes import render_scenes, scenes_dataset, vocabulary

__all__ = [
    "as_prompt",
    "digits_dataset",
    "glyphs_dataset",
    "haystack_dataset",
    "load_pairs",
    "load_questions",
    "render_digits",
    "render_glyphs",
    "render_scenes",
    "scenes_dataset",
    "vocabulary",
]
