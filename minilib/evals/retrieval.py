"""Recall at k: how often the right partner is among the k most similar ones, in both directions.

    recall@k = mean_i [ rank_i < k ],      rank_i = #{j : x_ij > x_i+}

where
    x_ij    = <img_i, txt_j>, one row of similarities
    x_i+    the largest x_ij over the correct j: the pair's own, and any j of the same group

Where t wrong and c correct candidates equal x_i+ behind g better ones, we count the chance that a correct one lands
among the first k, so that collapsed features score k / b and not 100 %:

    1 - C(t, k - g) / C(t + c, k - g)        (0 where k <= g; the fraction is 0 where k - g > t)

The (b, b) matrix never exists: one visit of its tiles finds x_i+, a second one counts. Tiles of different shape round
differently, so similarities within 8 eps |a| |b| are equal. Taught in notebooks/07_train_with_giant_batches.ipynb.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
) -> dict[str, dict[int, float]]:
    """Recall at each k in `ks`, from 0 to 1: `{"image_to_text": {k: recall}, "text_to_image": {k: recall}}`.

    image_features, text_features: `(b, d)` floating point, row i of one belongs to row i of the other; similarity is
    the inner product, so normalise them for cosines. groups: `(b,)` integers; rows with equal numbers count as correct
    for each other (captions that repeat). ks may exceed b. Extra memory is about 3 tile_size^2 numbers.
    """
    _check(image_features, text_features, ks, tile_size, groups)
    # Half precision would make ties of its own: its products are taken in fp32.
    wide = torch.promote_types(image_features.dtype, torch.float32)
    img, txt = image_features.detach().to(wide), text_features.detach().to(wide)
    if groups is None:
        groups = torch.arange(len(img))
    groups = groups.to(img.device)
    return {
        "image_to_text": _one_way(img, txt, groups, ks, tile_size),
        "text_to_image": _one_way(txt, img, groups, ks, tile_size),
    }


def evaluate_retrieval(
    model,
    dataset: Dataset,
    *,
    micro_batch_size: int = 512,
    ks: tuple[int, ...] = (1, 5, 10),
    progress: bool = True,
) -> dict[str, dict[int, float]]:
    """Encode `dataset` (columns `image` and `caption`) with `model`, and return `recall_at_k` of the features.

    model: offers `encode_image` and `encode_text`. It runs in evaluation mode, without gradients, `micro_batch_size`
    rows at a time, and is left in the mode it came in. Equal captions are one group. progress: show a bar.
    """
    from tqdm.auto import tqdm

    _check_rows(dataset, micro_batch_size)
    mode, img, txt, captions = model.training, [], [], []
    model.eval()
    try:
        with torch.no_grad():
            for start in tqdm(range(0, len(dataset), micro_batch_size), desc="encode", disable=not progress):
                rows = dataset[start : start + micro_batch_size]
                img.append(model.encode_image(rows["image"]))
                txt.append(model.encode_text(rows["caption"]))
                captions += rows["caption"]
    finally:
        model.train(mode)
    number = {caption: k for k, caption in enumerate(dict.fromkeys(captions))}
    groups = torch.tensor([number[caption] for caption in captions])
    return recall_at_k(torch.cat(img), torch.cat(txt), ks, groups=groups)


def _one_way(a: Tensor, b: Tensor, groups: Tensor, ks: tuple[int, ...], tile_size: int) -> dict[int, float]:
    """Recall of every row of `a` (b, d) looking for its partners among the rows of `b` (b, d)."""
    totals = dict.fromkeys(ks, 0.0)
    columns = list(zip(b.split(tile_size), groups.split(tile_size)))
    slack = 8 * torch.finfo(a.dtype).eps * a.norm(dim=1) * b.norm(dim=1).max()  # (b,)
    for rows, mine, near in zip(a.split(tile_size), groups.split(tile_size), slack.split(tile_size)):
        tiles = [(rows, column, mine[:, None] == group) for column, group in columns]
        best = torch.full((len(rows),), float("-inf"), dtype=a.dtype, device=a.device)
        for row, column, correct in tiles:
            x = (row @ column.T).masked_fill(~correct, float("-inf"))  # (rows, tile)
            best = torch.maximum(best, x.amax(1))
        better, wrong, right = _counts(tiles, best, near)
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


def _check(img: Tensor, txt: Tensor, ks: tuple[int, ...], tile_size: int, groups: Tensor | None) -> None:
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
    if groups is not None and (groups.shape != img.shape[:1] or groups.is_floating_point()):
        raise ValueError(
            f"groups must be integers with shape ({len(img)},), got {groups.dtype} {tuple(groups.shape)}: "
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
