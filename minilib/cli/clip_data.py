"""The pairs of one `clip` run or of its evaluation: made here, read whole, or streamed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minilib.cli.clip_settings import MADE, ClipSettings, columns_of, is_pretrained, share_of
from minilib.data import digits_dataset, glyphs, glyphs_dataset, load_pairs, scenes_dataset
from minilib.data.streams import OneCaptionEach, StreamedPairs, image_numbers, images_once
from minilib.data.tables import split_names

CAPTIONS = 100_000  # of so many captions at most the words are collected and the lengths counted


def training_data(settings: ClipSettings) -> tuple:
    """What is trained on, what is scored meanwhile (None for nothing), and lines that say what they are."""
    size, lines, held = None if is_pretrained(settings) else settings.image_size, [], None
    share = share_of(settings.validation)
    if settings.streaming:
        dataset = StreamedPairs(
            settings.data, settings.steps * settings.batch_size, image_size=size, seed=settings.seed,
            shuffle_buffer=settings.shuffle_buffer, keep=settings.batch_size, split=settings.split,
            columns=columns_of(settings), image_folder=settings.image_folder, allow_outside=settings.allow_outside,
        )  # fmt: skip
    elif settings.data in MADE:
        dataset = made(settings.data, settings.pairs, seed=0, size=settings.image_size)
    else:
        dataset = own(settings, size, settings.split)
    if share is not None:
        dataset, held = hold_out(dataset, share, settings.seed)
    elif settings.validation is not None:
        held = own(settings, size, settings.validation)
    if not settings.streaming:
        dataset = images_once(dataset)
    if isinstance(dataset, OneCaptionEach):
        captions = len(dataset.pairs)
        lines.append(f"{len(dataset):,} images with {captions:,} captions: an epoch draws one caption of each image")
    if held is not None:
        lines.append(f"validation: {len(held):,} pairs, scored with every checkpoint")
    return dataset, held, lines


def made(data: str, pairs: int, *, seed: int, size: int = 32, split: str = "train"):
    """Scenes, digit strips or glyphs; glyphs of the test split are different characters as long as there are some."""
    if data == "glyphs":
        once = split == "test" and pairs <= glyphs.TEST
        return glyphs_dataset(pairs, seed=seed, split=split, image_size=size, unique=once)
    if data == "scenes":
        return scenes_dataset(pairs, seed=seed, image_size=size)
    return digits_dataset(pairs, seed=seed, split=split, image_size=size)


def own(settings: ClipSettings, size: int | None, split: str | None):
    """Your own pairs, read whole."""
    return load_pairs(
        settings.data, image_size=size, split=split, image_folder=settings.image_folder,
        allow_outside=settings.allow_outside, **columns_of(settings),
    )  # fmt: skip


def to_score(data: str, split: str | None, allow_outside: bool, trained: dict) -> tuple[str | None, str]:
    """The split of your own data that an evaluation takes, test before validation, and a line that says which.

    trained: the settings of the training, since a score on the pairs of the training is not one on new pairs.
    """
    names = split_names(data, allow_outside=allow_outside)
    chosen = split or next((name for name in ("test", "validation") if name in names), None)
    default = "train" if "train" in names else names[0]
    scored = chosen or default
    line = f"{data}: split {scored!r} of {', '.join(names)}" if len(names) > 1 or "[" in scored else (
        f"{data}: all of its pairs"
    )  # fmt: skip
    before = trained.get("split") or default
    if trained.get("data") == data and before.partition("[")[0] == scored.partition("[")[0]:
        line += ", on which the model was trained" if before == scored else f", of which {before!r} was trained on"
    return chosen, line


def hold_out(pairs, share: float, seed: int) -> tuple:
    """The pairs without a share of their images, and that share: no image is in both."""
    numbers = image_numbers(pairs)
    images = np.random.default_rng(seed).permutation(np.unique(numbers))
    count = round(share * len(images))
    if not 0 < count < len(images):
        raise ValueError(f"validation is {share} of {len(images)} images, which leaves a side empty: give another.")
    held = np.isin(numbers, images[:count])
    return pairs.select(np.flatnonzero(~held)), pairs.select(np.flatnonzero(held))


def some_captions(dataset) -> Iterator[str]:
    """The captions of what is trained on, a hundred thousand at most."""
    if isinstance(dataset, StreamedPairs):
        yield from dataset.captions(CAPTIONS)
        return
    pairs = dataset.pairs if isinstance(dataset, OneCaptionEach) else dataset
    texts = pairs.with_format(None).select_columns(["caption"])
    for start in range(0, min(len(texts), CAPTIONS), 1_000):
        yield from texts[start : start + 1_000]["caption"]


def remembered(settings: ClipSettings) -> dict:
    """What an evaluation needs to know of the data that was trained on."""
    folder = settings.image_folder
    return {**columns_of(settings), "image_folder": None if folder is None else str(Path(folder))}
