"""Plain-torch tile visits over a vocabulary: log-probabilities of n labels without the (n, V) matrix of logits.

The logits of token t are x_tv = <h_t, w_v>. Two numbers of each row are wanted, so a tile of a few rows and a few
vocabulary entries is computed into one buffer, folded and overwritten by the next:

    logp_t         = x_ty - l_t,    l_t = log sum_v exp(x_tv),    y the label of t                       1 product
    d logp_t/d h_t = w_y - sum_v p_tv w_v,                        p_tv = exp(x_tv - l_t)
    d logp_t/d w_v = ([v = y] - p_tv) h_t                                                                2 products

where
    h, w      hidden states (n, d) and the head's weight (V, d)
    product   one n x V x d matrix multiplication, 2 n V d floating-point operations

Two ways to the gradient of sum_t c_t logp_t: `add_grads` visits every tile a second time, for any c, 1 product forward
and 3 backward; `sweep` holds the exponentials of a few rows until their normaliser is known and takes the gradients at
once, for a c that is known beforehand, 3 products in all and 2 with a frozen weight. On a GPU bf16 is multiplied as it
is, p - [v = y] rounded to bf16 after the label is subtracted (`products`).

Departure from the paper: LOGO's released code writes all logits down, for every position of three full sequences.
Taught in notebooks/10_score_a_long_answer.ipynb.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from minilib import lse
from minilib.kernels.contrastive_tiled import Grads, blocks
from minilib.kernels.products import add_products, operand_dtype, product, sums_dtype

TILE, GPU_TILE = 1024, 4096  # rows and entries of a tile: 4 MB in fp32, in the cache next to its operands; few launches
# Rows whose exponentials `sweep` holds: 48 MB in fp32 at V = 32,768; 0.5 GB at V = 128,256 on a GPU, where every block
# of rows reads the weight's gradient again.
HELD_ROWS, GPU_HELD_ROWS = 384, 1024
HELD_ENTRIES = 2048  # entries of a tile of `sweep`, which is lower and so may be wider: 3 MB in fp32; a GPU takes all


def log_sums(hidden: Tensor, weight: Tensor, labels: Tensor, tile_size: int | None = None) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of every row of logits and the logit of its label, both (n,): running states, one product."""
    dtype = sums_dtype(hidden, weight)
    picked = hidden.new_zeros(len(hidden), dtype=dtype)
    state = lse.empty(picked.shape, dtype=dtype, device=picked.device)
    for i, j, _, _, tile in _visit(hidden, weight, tile_size):
        picked[i] += _at_label(tile, labels[i], j)
        state.m[i], state.s[i] = lse.merge((state.m[i], state.s[i]), _exponentials(tile))
    return lse.value(state), picked


def add_grads(
    hidden: Tensor, weight: Tensor, labels: Tensor, sums: Tensor, factors: Tensor, grads: Grads,
    tile_size: int | None = None,
) -> None:  # fmt: skip
    """Add the gradients of sum_t factors_t logp_t to `grads`, of hidden and weight; `sums` are those of `log_sums`.

    Three products: the tile again, then one for each gradient; a gradient that is None costs nothing.
    """
    for i, j, rows, entries, tile in _visit(hidden, weight, tile_size):
        tile.sub_(sums[i, None]).exp_()  # p
        _label_minus(tile, labels[i], j, factors[i])
        add_products(tile, i, j, rows, entries, grads)


def sweep(
    hidden: Tensor, weight: Tensor, labels: Tensor, factors: Tensor, grads: Grads, tile_size: int | None = None
) -> Tensor:
    """The log-probabilities (n,); gradients of sum_t factors_t logp_t go to `grads`: one visit, three products.

    A tile keeps its own maximum, exp(x - m_j), and is turned into probabilities by exp(m_j - l), one number for each
    row: one exponential per logit.
    """
    dtype, operands = sums_dtype(hidden, weight), operand_dtype(hidden, weight)
    logps = hidden.new_empty(len(hidden), dtype=dtype)
    usual = (GPU_HELD_ROWS, len(weight)) if hidden.is_cuda else (HELD_ROWS, HELD_ENTRIES)
    size, width = (tile_size, tile_size) if tile_size else usual
    held = hidden.new_empty(min(size, len(hidden)), len(weight), dtype=dtype)
    for i in blocks(len(hidden), size):
        rows, x = hidden[i].to(operands), held[: i.stop - i.start]  # (rows, d), (rows, V)
        parts = [_exponentials(product(rows, entries.T, x[:, j])) for j, entries in _entries(weight, operands, width)]
        # All tiles of these rows are merged at once: exponentials of single columns would cost as much as a tile's.
        m, s = (torch.stack(numbers) for numbers in zip(*parts))  # (tiles, rows) each
        total = torch.logsumexp(m + s.log(), 0)
        logps[i] = (rows.to(dtype) * weight[labels[i]].to(dtype)).sum(1) - total
        scales = -factors[i] * torch.exp(m - total)
        for scale, j in zip(scales, blocks(len(weight), width)):
            x[:, j].mul_(scale[:, None])
        # Before any product: p - 1 must not be left to two rounded sums.
        x.scatter_add_(1, labels[i, None], factors[i, None])
        # One long product is faster than many short ones, but a widened copy of the weight is made tile by tile.
        for j, entries in _entries(weight, operands, len(weight) if weight.dtype == operands else width):
            add_products(x[:, j], i, j, rows, entries, grads)
    return logps


def _visit(hidden: Tensor, weight: Tensor, tile_size: int | None) -> Iterator[tuple]:
    """Row slice, entry slice, their operands and the tile of logits, which the next one overwrites."""
    size, operands = tile_size or (GPU_TILE if hidden.is_cuda else TILE), operand_dtype(hidden, weight)
    buffer = hidden.new_empty(min(size, len(hidden)) * min(size, len(weight)), dtype=sums_dtype(hidden, weight))
    for i in blocks(len(hidden), size):
        rows = hidden[i].to(operands)  # (rows, d)
        for j, entries in _entries(weight, operands, size):
            tile = buffer[: len(rows) * len(entries)].view(len(rows), len(entries))
            yield i, j, rows, entries, product(rows, entries.T, tile)


def _entries(weight: Tensor, dtype: torch.dtype, size: int) -> Iterator[tuple[slice, Tensor]]:
    for j in blocks(len(weight), size):
        yield j, weight[j].to(dtype)  # (entries, d): never a whole widened copy of the weight


def _exponentials(tile: Tensor) -> lse.LSEState:
    """Turn a tile of logits into exp(x - m) in place, m the maximum of each row, and return its pair (m, s)."""
    m = tile.amax(1)
    tile.sub_(m[:, None]).exp_()
    return lse.LSEState(m, tile.sum(1))


def _at_label(tile: Tensor, labels: Tensor, j: slice) -> Tensor:
    """The logit of each row's label where it lies in this tile, else 0; no row is selected, so no device waits."""
    column, inside = _column(labels, j)
    return torch.where(inside, tile.gather(1, column[:, None])[:, 0], 0)


def _label_minus(tile: Tensor, labels: Tensor, j: slice, factors: Tensor) -> None:
    """tile <- ([v = label] - tile) factors, before any product: p - 1 must not be left to two rounded sums."""
    column, inside = _column(labels, j)
    tile.mul_(-factors[:, None])
    tile.scatter_add_(1, column[:, None], torch.where(inside, factors, 0)[:, None])


def _column(labels: Tensor, j: slice) -> tuple[Tensor, Tensor]:
    return (labels - j.start).clamp(0, j.stop - j.start - 1), (labels >= j.start) & (labels < j.stop)
