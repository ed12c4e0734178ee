"""What a rank of the ring computes: the sums of its rows and columns, and their gradients, block by block.

The functions of `tiled` and `fused`, folded once more over the ranks. Each is a sweep (`ring.sweep`) whose visit hands
one block to the local kernels, foreign blocks without a diagonal:

    clip_sums        R = sum over blocks;  C = sum over ranks, met in one table of 2 (b + 1) numbers      1 product
    clip_grads       dimg stays, dtxt follows its block                                                  3 products
    sigmoid_visit    loss and both gradients from one sweep                                              3 products

where
    product    one b x b x d matrix multiplication, summed over the ranks
    table      column sums without the diagonal, and the positives, of all b pairs; each rank adds what it has

One shift serves all ranks, so partial sums merge by plain addition; where the logits are too large for it, the pairs of
`minilib.lse` merge instead, first their maxima, then their sums. Every rank sees the same table and so comes to the
same verdict on which way to go.

Departure from the paper: Inf-CL's ring starts from l = 0 in print, and its ring of plain torch blocks takes no maximum.
Taught in notebooks/06_pass_tiles_around_a_ring.ipynb.
"""

import math
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minilib.kernels import contrastive_tiled as tiled
from minilib.kernels.ring import Place, Program, Total, sweep


class Local(NamedTuple):
    """How a rank works on one block: the module of tile visits (`tiled` or `fused`), its tile size and its options."""

    kernels: ModuleType
    tile_size: int | None
    options: dict[str, Any]

    def operand(self, features: Tensor) -> Tensor:
        """The features as the kernels multiply them: plain torch on a CPU would round products of half precision."""
        wide = self.kernels is not tiled or features.dtype in (torch.float32, torch.float64)
        return features if wide else features.float()


class Sums(NamedTuple):
    """Log-sum-exps without the diagonal of the own rows `(m,)` and columns `(m,)`, and of all b columns with it."""

    rows: Tensor
    cols: Tensor
    all_cols: Tensor
    shift: float | None  # None where the logits are too large for one shift


def clip_sums(
    place: Place, img: Tensor, txt: Tensor, scale: Tensor, positive: Tensor, shift: float | None, local: Local
) -> Program:
    """Row and column log-sum-exps of the whole matrix: W - 1 passes of the texts, one total of 2 b + 2 numbers.

    Args:
        img, txt: the own features `(m, d)`.
        scale: one number, the same on every rank.
        positive: logits of the own pairs `(m,)`.
        shift: as in `tiled.shared_shift`, for the features of all ranks together.
    """
    if shift is not None:
        sums = yield from _shifted_sums(place, img, txt, scale, positive, shift, local)
        if sums is not None:
            return sums
    return (yield from _pair_sums(place, img, txt, scale, positive, local))


def _shifted_sums(place, img, txt, scale, positive, shift, local) -> Program:
    own, rows = place.columns(place.rank), torch.zeros_like(positive)
    table = positive.new_zeros(2, place.pairs + 1)  # column sums and positives of all pairs; ranks whose rows vanished
    img = local.operand(img)

    def visit(owner: int, block: Tensor) -> None:
        block, paired = local.operand(block), owner == place.rank
        of_rows, of_cols = local.kernels.shifted_sums(img, block, scale, shift, local.tile_size, paired=paired)
        rows.add_(of_rows)
        table[0, place.columns(owner)] = of_cols

    yield from sweep(place, txt, "sums", visit)
    table[1, own] = positive
    table[0, -1] = not _safe(rows, positive, shift)
    table = yield Total("columns", table)
    cols, positives = table[:, :-1]
    # Every rank sees the same table and comes to the same verdict, without another message.
    if table[0, -1] > 0 or not _safe(cols, positives, shift):
        return None
    cols = cols.log() + shift
    return Sums(rows.log_().add_(shift), cols[own], torch.logaddexp(cols, positives), shift)


def _pair_sums(place, img, txt, scale, positive, local) -> Program:
    own, rows = place.columns(place.rank), torch.full_like(positive, -math.inf)
    cols = positive.new_empty(place.pairs)
    img = local.operand(img)

    def visit(owner: int, block: Tensor) -> None:
        block, paired = local.operand(block), owner == place.rank
        of_rows, of_cols = local.kernels.pair_sums(img, block, scale, local.tile_size, paired=paired)
        torch.logaddexp(rows, of_rows, out=rows)
        cols[place.columns(owner)] = of_cols

    yield from sweep(place, txt, "sums", visit)
    m = yield Total("maxima", cols, largest=True)
    m = torch.where(m == -math.inf, 0.0, m)  # inf - inf is NaN; any finite reference serves an empty sum
    table = torch.stack([torch.exp(cols - m), torch.zeros_like(cols)])  # (2, b)
    table[1, own] = positive
    s, positives = yield Total("columns", table)
    cols = m + s.log()
    return Sums(rows, cols[own], torch.logaddexp(cols, positives), None)


def clip_grads(
    place: Place, img: Tensor, txt: Tensor, scale: Tensor, row_lse: Tensor, col_lse: Tensor, shift: float | None,
    img_grad: Tensor | None, txt_wanted: bool, local: Local,
) -> Program:  # fmt: skip
    """Add G txt over all blocks to `img_grad` `(m, d)`; returns the gradient of the own texts `(m, d)` or None.

    `row_lse` `(m,)` and `col_lse` `(b,)` hold the diagonal, which G itself leaves out.
    """
    img, kernels, options = local.operand(img), local.kernels, local.options | {"tile_size": local.tile_size}

    def visit(owner: int, block: Tensor) -> Tensor | None:
        block, grad = local.operand(block), _zeros(block) if txt_wanted else None
        cols, paired = col_lse[place.columns(owner)], owner == place.rank
        if shift is None:
            kernels.pair_grads(img, block, scale, row_lse, cols, (img_grad, grad), paired=paired, **options)
        else:
            weights = torch.exp(shift - row_lse), torch.exp(shift - cols)
            kernels.shifted_grads(img, block, scale, shift, *weights, (img_grad, grad), paired=paired, **options)
        return grad

    return (yield from sweep(place, txt, "gradients", visit))


def sigmoid_visit(
    place: Place, img: Tensor, txt: Tensor, scale: Tensor, bias: Tensor,
    img_grad: Tensor | None, txt_wanted: bool, local: Local,
) -> Program:  # fmt: skip
    """Loss and slope of the own rows against all texts, and the gradient of the own texts: one sweep for all."""
    img, sums = local.operand(img), torch.zeros(2, dtype=torch.float64, device=img.device)

    def visit(owner: int, block: Tensor) -> Tensor | None:
        block, grad = local.operand(block), _zeros(block) if txt_wanted else None
        options = {"tile_size": local.tile_size, "paired": owner == place.rank}
        sums.add_(torch.stack(local.kernels.sigmoid_visit(img, block, scale, bias, (img_grad, grad), **options)))
        return grad

    txt_grad = yield from sweep(place, txt, "sigmoid", visit)
    loss, slope = sums.to(scale.dtype)
    return loss, slope, txt_grad


def _zeros(block: Tensor) -> Tensor:
    return torch.zeros(block.shape, dtype=torch.promote_types(block.dtype, torch.float32), device=block.device)


def _safe(sums: Tensor, positive: Tensor, shift: float) -> bool:
    """Whether no sum has lost terms to underflow or overflowed; the positive counts as one of the terms."""
    return tiled.SMALLEST_SUM < (sums + torch.exp(positive - shift)).min().item() < math.inf
