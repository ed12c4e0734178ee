"""Checks of lesson 04, tile the loss: sums tile by tile, the gradient of a tile, and both together.

None of these functions may hold a `(b, b)` matrix; the checks watch the largest tensor that is made.
Solution: `minilib.clip_loss(..., backend="tiled", tile_size=tile)`, tiles: `minilib.kernels.contrastive_tiled`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minilib import clip_loss
from minilib.teaching.checks.contract import LargestTensor, compare, not_finite, run
from minilib.teaching.repro import random_features

SCALE = 10.0


def check_tiled_row_lse(learner: Callable[[Tensor, Tensor, float, int], Tensor]) -> None:
    """Exercise: `tiled_row_lse(img, txt, scale, tile)`, the log-sum-exp of each row of logits, `(b,)`."""
    cases = {
        "for 8 pairs in tiles of 4": lambda fn: _rows(fn, 8, 4),
        "for 10 pairs in tiles of 4": lambda fn: _rows(fn, 10, 4),
        "for 3 pairs in tiles of 16": lambda fn: _rows(fn, 3, 16),
        "for 40 pairs in tiles of 8": _holds_no_matrix,
        "for aligned pairs at scale 100 in fp32": _large_logits,
    }
    run(learner, cases, "a row needs only its running state, so no tile has to stay in memory")


def check_tiled_forward(learner: Callable[[Tensor, Tensor, float, int], Tensor]) -> None:
    """Exercise: `tiled_forward(img, txt, scale, tile)`, the symmetric loss, both directions from each tile."""
    cases = {
        "for 8 pairs in tiles of 4": lambda fn: _loss(fn, 8, 4),
        "for 10 pairs in tiles of 4": lambda fn: _loss(fn, 10, 4),
        "for 40 pairs in tiles of 8": _holds_no_matrix,
        "for aligned pairs at scale 100 in fp32": _large_logits,
    }
    run(learner, cases, "one visit of each tile serves both directions: one product, no matrix")


def check_tile_gradient(learner: Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]) -> None:
    """Exercise: `tile_gradient(exps, row_sums, col_sums, pairs, batch)`, dL/dX for one tile `(p, q)`.

    `exps (p, q)` are exp(X - h), `row_sums (p,)` and `col_sums (q,)` their sums over the whole batch, `pairs (p, q)`
    is 1 where row and column belong together and else 0, `batch` is the size of the whole batch.
    """
    cases = {
        "for a 3 by 5 tile without true pairs": lambda fn: _tile(fn, slice(0, 3), slice(4, 9)),
        "for a 3 by 4 tile with true pairs": lambda fn: _tile(fn, slice(4, 7), slice(4, 8)),
        "for the whole matrix as one tile": lambda fn: _tile(fn, slice(0, 9), slice(0, 9)),
    }
    run(learner, cases, "the two sums are all that a tile must know about the rest of the batch")


def check_tiled_backward(learner: Callable[[Tensor, Tensor, float, int], tuple]) -> None:
    """Exercise: `tiled_backward(img, txt, scale, tile)`, the gradients of the loss, `(img_grad, txt_grad)`."""
    cases = {
        "for 8 pairs in tiles of 4": lambda fn: _gradients(fn, 8, 4),
        "for 10 pairs in tiles of 4": lambda fn: _gradients(fn, 10, 4),
        "for 40 pairs in tiles of 8": _holds_no_matrix,
    }
    run(learner, cases, "visiting each tile a second time costs one product and saves b squared numbers")


def _features(b: int) -> tuple[Tensor, Tensor]:
    return random_features(b, 6, seed=b, dtype=torch.float64)


def _rows(fn: Callable, b: int, tile: int) -> str | None:
    img, txt = _features(b)
    logits = SCALE * img @ txt.T  # (b, b)
    own = torch.cat([torch.logsumexp(logits[k : k + tile, k : k + tile], 1) for k in range(0, b, tile)])
    even = torch.logsumexp(logits[:, : max(1, b // tile * tile)], 1)
    suspects = {
        "only the tiles on the diagonal were visited": own,
        "you summed down the columns: reduce along the row": torch.logsumexp(logits, 0),
        "the last tile is missing: it is smaller when the tile does not divide the batch": even,
    }
    return compare(fn(img, txt, SCALE, tile), torch.logsumexp(logits, 1), suspects)


def _loss(fn: Callable, b: int, tile: int) -> str | None:
    img, txt = _features(b)
    logits = SCALE * img @ txt.T  # (b, b)
    want = clip_loss(img, txt, SCALE, backend="dense")
    rows, cols = torch.logsumexp(logits, 1), torch.logsumexp(logits, 0)
    parts = [clip_loss(i, t, SCALE, backend="dense") for i, t in zip(img.split(tile), txt.split(tile), strict=True)]
    suspects = {
        "that is the mean loss of small batches: every image must meet the texts of all tiles": sum(parts) / len(parts),
        "the sum is divided by the tile size: divide by the batch size": want * b / tile,
        "the sum over the pairs is not divided by their number": want * b,
        "only the rows are there: the same tiles also give the sums of the columns": (rows - logits.diagonal()).mean(),
        "only the columns are there: the same tiles also give the sums of the rows": (cols - logits.diagonal()).mean(),
        "the positives are not subtracted": (rows + cols).mean() / 2,
    }
    return compare(fn(img, txt, SCALE, tile), want, suspects)


def _tile(fn: Callable, i: slice, j: slice) -> str | None:
    img, txt = _features(9)
    exps = torch.exp(SCALE * img @ txt.T - SCALE)  # (9, 9)
    rows, cols = exps.sum(1)[i, None], exps.sum(0)[j]  # (p, 1), (q,)
    pairs = torch.eye(9, dtype=torch.float64)[i, j]
    want = (exps[i, j] / rows + exps[i, j] / cols - 2 * pairs) / 18
    suspects = {
        "the true pairs are missing: subtract 1 in each direction there": want + pairs / 9,
        "1 is subtracted once: a true pair belongs to its row and to its column": want + pairs / 18,
        "the mean over the batch is missing: divide by 2 b": want * 18,
        "the average over both directions is missing: divide by 2 b, not by b": want * 2,
        "it is averaged over the tile: divide by the size of the batch": want * 9 / len(pairs),
        "only the rows are there: add the same with the sums of the columns": (exps[i, j] / rows - pairs) / 18,
    }
    return compare(fn(exps[i, j], rows[:, 0], cols, pairs, 9), want, suspects)


def _gradients(fn: Callable, b: int, tile: int) -> str | None:
    img, txt = (side.requires_grad_() for side in _features(b))
    want = torch.autograd.grad(clip_loss(img, txt, SCALE, backend="dense"), (img, txt))
    logits = (SCALE * img @ txt.T).detach().requires_grad_()
    full = (torch.logsumexp(logits, 1) + torch.logsumexp(logits, 0) - 2 * logits.diagonal()).sum() / (2 * b)
    g = torch.autograd.grad(full, logits)[0] * SCALE  # (b, b)
    last = slice((b - 1) // tile * tile, b)
    replaced = g[:, last] @ txt[last].detach(), g[last].T @ img[last].detach()
    suspects = {
        "the scale is missing: the logits are scale times the cosines": tuple(w / SCALE for w in want),
        "the text gradient takes G, not G transposed": (want[0], g @ img.detach()),
        "only the last tile of each row and column is left: add to the gradient, do not replace it": replaced,
        "it is averaged over the tile: divide by the size of the batch": tuple(w * b / tile for w in want),
    }
    return compare(fn(img.detach(), txt.detach(), SCALE, tile), want, suspects)


def _holds_no_matrix(fn: Callable) -> str | None:
    img, txt = _features(40)
    with LargestTensor() as largest:
        fn(img, txt, SCALE, 8)
    if largest.numel < 40 * 40:
        return None
    return f"a tensor of {largest.numel:,} numbers was made, and the b by b matrix has 1,600: hold one tile at a time"


def _large_logits(fn: Callable) -> str | None:
    img, _ = random_features(6, 16)
    return not_finite(fn(img, img, 100.0, 4), "a sum is not finite: subtract a maximum before each exponential")
