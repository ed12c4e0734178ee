"""Recall at k: how often the right partner is among the k most similar ones, in both directions.

    recall@k = mean_i [ rank_i < k ],      rank_i = #{j : x_ij > x_i+}

where
    x_ij    = <img_i, txt_j>, one row of similarities
    x_i+    the largest x_ij over the correct j: the pair's own, any j of the same group, any caption of the same image

Rows that share an image are one image, as in COCO: it is looked for once, and each of its captions is correct for it.
A caption of image A that is written under image B as well is correct for both.

Where t wrong and c correct candidates equal x_i+ behind g better ones, we count the chance that a correct one lands
among the first k, so that collapsed features score k / b and not 100 %:

    1 - C(t, k - g) / C(t + c, k - g)        (0 where k <= g; the fraction is 0 where k - g > t)

The (b, b) matrix never exists: one visit of its tiles finds x_i+, a second one counts. Tiles of different shape round
differently, so similarities within 8 eps |a| |b| are equal. Taught in notebooks/07_train_with_giant_batches.ipynb.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from datasets import Dataset


def recall_at_k(
    image_features: Tensor,
    text_features: Tensor,
    ks: tuple[int, ...] = (1, 5, 10),
    *,
    tile_size: int = 1024,
    groups: Tensor | None = None,
    images: Tensor | None = None,
) -> dict[str, dict[int, float]]:
    """Recall at each k in `ks`, from 0 to 1: `{"image_to_text": {k: recall}, "text_to_image": {k: recall}}`.

    image_features, text_features: `(b, d)` floating point, row i of one belongs to row i of the other; similarity is
    the inner product, so normalise them for cosines. groups: `(b,)` integers; rows with equal numbers count as correct
    for each other (captions that repeat). images: `(b,)` integers; rows with equal numbers show one image, whose
    features are taken from the first of them. ks may exceed b. Extra memory is about 3 tile_size^2 numbers.
    """
    _check(image_features, text_features, ks, tile_size, groups, images)
    # Half precision would make ties of its own: its products are taken in fp32.
    wide = torch.promote_types(image_features.dtype, torch.float32)
    img, txt = image_features.detach().to(wide), text_features.detach().to(wide)
    if groups is None:
        groups = torch.arange(len(img))
    groups = groups.to(img.device)
    if images is not None and len(images.unique()) < len(images):
        return _shared_images(img, txt, groups, images.to(img.device), ks, tile_size)
    equal = _equal(groups, groups)
    return {
        "image_to_text": _one_way(img, txt, equal, ks, tile_size),
        "text_to_image": _one_way(txt, img, equal, ks, tile_size),
    }


def evaluate_retrieval(
    model, dataset: Dataset, *, micro_batch_size: int = 512, ks: tuple[int, ...] = (1, 5, 10), progress: bool = True
) -> dict[str, dict[int, float]]:
    """Encode `dataset` (columns `image` and `caption`) with `model`, and return `recall_at_k` of the features.

    model: offers `encode_image` and `encode_text`. It runs in evaluation mode, without gradients, `micro_batch_size`
    rows at a time, and is left in the mode it came in. Equal captions are one group, and equal images are one image.
    progress: show a bar.
    """
    from tqdm.auto import tqdm

    _check_rows(dataset, micro_batch_size)
    mode, img, txt, captions, pixels = model.training, [], [], [], []
    model.eval()
    try:
        with torch.no_grad():
            for start in tqdm(range(0, len(dataset), micro_batch_size), desc="encode", disable=not progress):
                rows = dataset[start : start + micro_batch_size]
                img.append(model.encode_image(rows["image"]))
                txt.append(model.encode_text(rows["caption"]))
                captions += rows["caption"]
                pixels += [_digest(image) for image in rows["image"]]
    finally:
        model.train(mode)
    return recall_at_k(torch.cat(img), torch.cat(txt), ks, groups=_numbers(captions), images=_numbers(pixels))


def _numbers(things: list) -> Tensor:
    """Equal things get equal numbers, counted from 0 in the order of their first appearance."""
    number = {thing: k for k, thing in enumerate(dict.fromkeys(things))}
    return torch.tensor([number[thing] for thing in things])


def _digest(image) -> bytes:
    """What two equal images have in common: a tensor, or a pillow image."""
    array = image.detach().cpu().contiguous().numpy() if isinstance(image, Tensor) else np.ascontiguousarray(image)
    return hashlib.blake2b(repr(array.shape).encode() + array.tobytes(), digest_size=16).digest()


def _shared_images(img: Tensor, txt: Tensor, groups: Tensor, images: Tensor, ks, tile_size: int) -> dict:
    """Recall where several rows show one image: each image once, against all captions."""
    unique, number = images.unique(return_inverse=True)
    first = torch.full_like(unique, len(images)).scatter_reduce(0, number, torch.arange(len(images)).to(number), "amin")
    # An image and a group of captions belong together where a row holds both; a pair of numbers becomes one number.
    _, group = groups.unique(return_inverse=True)
    span = int(group.max()) + 1
    held = (number * span + group).unique()  # sorted

    def belong(image: Tensor, caption: Tensor) -> Tensor:
        wanted = image * span + caption
        return held[torch.searchsorted(held, wanted).clamp(max=len(held) - 1)] == wanted

    every = torch.arange(len(unique), device=img.device)
    there = _pairwise(every, group, belong)
    back = _pairwise(group, every, lambda caption, image: belong(image, caption))
    return {
        "image_to_text": _one_way(img[first], txt, there, ks, tile_size),
        "text_to_image": _one_way(txt, img[first], back, ks, tile_size),
    }


def _equal(mine: Tensor, theirs: Tensor) -> Callable:
    return _pairwise(mine, theirs, torch.eq)


def _pairwise(mine: Tensor, theirs: Tensor, related: Callable) -> Callable:
    """Which candidates of a slice are correct for which rows of a slice: `(rows, candidates)` bool."""
    return lambda rows, columns: related(mine[rows][:, None], theirs[columns][None])


def _one_way(a: Tensor, b: Tensor, correct: Callable, ks: tuple[int, ...], tile_size: int) -> dict[int, float]:
    """Recall of every row of `a` (q, d) looking for its partners among the rows of `b` (c, d)."""
    totals = dict.fromkeys(ks, 0.0)
    slices = [slice(start, start + tile_size) for start in range(0, max(len(a), len(b)), tile_size)]
    slack = 8 * torch.finfo(a.dtype).eps * a.norm(dim=1) * b.norm(dim=1).max()  # (q,)
    for part in (part for part in slices if part.start < len(a)):
        rows = a[part]
        tiles = [(rows, b[other], correct(part, other)) for other in slices if other.start < len(b)]
        best = torch.full((len(rows),), float("-inf"), dtype=a.dtype, device=a.device)
        for row, column, right in tiles:
            x = (row @ column.T).masked_fill(~right, float("-inf"))  # (rows, tile)
            best = torch.maximum(best, x.amax(1))
        better, wrong, right = _counts(tiles, best, slack[part])
        for k in ks:
            totals[k] += _chance(better, wrong, right, k).sum().item()
    return {k: total / len(a) for k, total in totals.items()}


def _counts(tiles: list, best: Tensor, near: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For every row: candidates better than `best`, and wrong and correct ones equal to it; `near` is equal."""
    better, wrong, right = (torch.zeros(len(best), dtype=torch.float64, device=best.device) for _ in range(3))
    for row, column, correct in tiles:
        ahead = row @ column.T - best[:, None]  # (rows, tile)
        equal = ahead.abs() <= near[:, None]
        # A correct candidate is never ahead of the best one, but rounding might say so.
        better += (~equal & ~correct & (ahead > 0)).sum(1)
        wrong += (equal & ~correct).sum(1)
        right += (equal & correct).sum(1)
    return better, wrong, right


def _chance(better: Tensor, wrong: Tensor, right: Tensor, k: int) -> Tensor:
    """The chance that one of `right` equals is among the first k, `better` before them and `wrong` next to them."""
    # C(t, n) / C(t + c, n) is the chance to pick n of the t + c equals and find no correct one, one pick at a time.
    missed = torch.ones_like(better)
    for pick in range(k):
        still = better + pick < k  # this place lies within the first k
        factor = (wrong - pick).clamp(min=0) / (wrong + right - pick).clamp(min=1)
        missed = torch.where(still, missed * factor, missed)
    return 1 - missed


def _check(img: Tensor, txt: Tensor, ks, tile_size: int, groups: Tensor | None, images: Tensor | None) -> None:
    for name, features in (("image_features", img), ("text_features", txt)):
        if features.ndim != 2 or not features.is_floating_point():
            raise ValueError(
                f"{name} must be floating point with shape (b, d), got {features.dtype} "
                f"{tuple(features.shape)}: pass one row of features for each item."
            )
        bad = (~torch.isfinite(features)).any(1).nonzero()
        if len(bad):
            raise ValueError(f"{name} must be finite, got NaN or inf first in row {int(bad[0])}: fix the encoder.")
    if img.shape != txt.shape or len(img) == 0:
        raise ValueError(
            f"image_features and text_features must have one non-empty shape (b, d), got "
            f"{tuple(img.shape)} and {tuple(txt.shape)}: pass matching rows."
        )
    if not ks or any(not isinstance(k, int) or k < 1 for k in ks):
        raise ValueError(f"ks must hold whole numbers of at least 1, got {ks!r}: pass for example (1, 5, 10).")
    if not isinstance(tile_size, int) or tile_size < 1:
        raise ValueError(f"tile_size must be an integer of at least 1, got {tile_size!r}: pass for example 1024.")
    for name, numbers in (("groups", groups), ("images", images)):
        if numbers is not None and (numbers.shape != img.shape[:1] or numbers.is_floating_point()):
            raise ValueError(
                f"{name} must be integers with shape ({len(img)},), got {numbers.dtype} {tuple(numbers.shape)}: "
                "pass one number for each item."
            )


def _check_rows(dataset: Dataset, micro_batch_size: int) -> None:
    lacking = [name for name in ("image", "caption") if name not in dataset.column_names]
    if lacking:
        raise ValueError(
            f"dataset must have the columns image and caption, got {dataset.column_names}: "
            "read your own data with minilib.data.load_pairs."
        )
    if len(dataset) == 0:
        raise ValueError("dataset must hold at least one pair, got an empty one: pass rows to rank.")
    if not isinstance(micro_batch_size, int) or micro_batch_size < 1:
        raise ValueError(
            f"micro_batch_size must be an integer of at least 1, got {micro_batch_size!r}: pass for example 512."
        )
