"""Plain-torch tile visits: the sums of a logit matrix and their gradients, one tile at a time.

The logits of b pairs are X_ij = scale * <img_i, txt_j>. Nobody needs X itself, only sums over its rows and columns, so
each tile is computed into one small buffer, folded into the sums and overwritten by the next:

    forward     R_i = sum_{j != i} exp(X_ij - h)           C_j = sum_{i != j} exp(X_ij - h)           1 product
    backward    G_ij = exp(X_ij - h) (a_i + c_j)           dimg = G txt,  dtxt = G^T img              3 products

where
    h         a shift that all tiles share, so that partial sums merge by plain addition (see `shared_shift`)
    a, c      1 / (R_i + positive), 1 / (C_j + positive): one exponential serves both directions
    product   one b x b x d matrix multiplication, 2 b^2 d floating-point operations

The diagonal is left out everywhere (`visit` writes -inf there). The b positive pairs cost O(b d) and are treated apart
by the losses, which keeps the gradient exact where a positive's probability nears 1 and p - 1 would cancel.

Departure from the paper: Inf-CL's code visits each tile for one direction only, 10 products in all; here both share
every tile. Logits too large for one shift take the running states of `minilib.lse` (`pair_sums`, `pair_grads`).
Taught in notebooks/04_tile_the_loss.ipynb.
"""

import itertools
import math
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from minilib import lse
from minilib.kernels.cpu_threads import Tiles, share_tiles
from minilib.kernels.products import add_products

Grads = tuple[Tensor | None, Tensor | None]  # of both operands, to add to; None where nobody wants one
TILE_ROWS, TILE_COLS = 512, 1024  # a tile of 2 MB in fp32 stays in a core's cache next to its operands
HEADROOM = 60.0  # exp(60) times four million terms is still a finite fp32 number
LARGEST_BOUND = 2 * HEADROOM  # beyond it, logits near 0 would vanish under the shared shift
SMALLEST_SUM = 1e-24  # sums below it may have lost terms to underflow


def blocks(length: int, size: int) -> list[slice]:
    """Cut `range(length)` into consecutive slices of `size`; the last one may be shorter."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def tile_grid(rows: int, cols: int, tile_size: int | None = None) -> tuple[list[slice], list[slice]]:
    """The row blocks and the column blocks of the tiles, in the order of the visit."""
    return blocks(rows, tile_size or TILE_ROWS), blocks(cols, tile_size or TILE_COLS)


def visit(
    img: Tensor, txt: Tensor, scale: Tensor, tile_size: int | None = None, tiles: Tiles | None = None,
    cached: Mapping[tuple[int, int], Tensor] | None = None, paired: bool = True,
) -> Iterator[tuple[slice, slice, Tensor | None]]:  # fmt: skip
    """Yield `(i, j, tile)` for every tile of logits; all tiles share one buffer, which the next step overwrites.

    The entries that pair a row with its own column are -inf, unless the block comes from elsewhere and has none
    (`paired=False`). `tiles` are the places to visit, all by default. Those whose exponentials an earlier visit left
    in `cached` are not computed and come as None.
    """
    buffer, scaled = _buffer(img, txt, tile_size), None
    for i, j in tiles or itertools.product(*tile_grid(len(img), len(txt), tile_size)):
        if cached and (i.start, j.start) in cached:
            yield i, j, None
            continue
        if scaled != i:
            rows, scaled = img[i] * scale, i  # (rows, d), once per row block: never a whole scaled copy of img
        tile = _view(buffer, i, j)
        torch.mm(rows, txt[j].T, out=tile)  # (rows, cols)
        if paired:
            tile.diagonal(i.start - j.start).fill_(-math.inf)
        yield i, j, tile


def shared_shift(img: Tensor, txt: Tensor, scale: Tensor) -> float | None:
    """One shift h for all tiles, from the bound |X_ij| <= |scale| max|img| max|txt|; None when the bound is too large.

    `h = max(0, bound - 60)`: nothing overflows, a logit vanishes 87 below h (in fp32), scales up to 120 are served.
    """
    return shift_for((scale.abs() * largest_norm(img) * largest_norm(txt)).item())


def shift_for(bound: float) -> float | None:
    """The shift for logits of at most `bound` in size, None when no shift serves them all."""
    return max(0.0, bound - HEADROOM) if bound <= LARGEST_BOUND else None


def largest_norm(features: Tensor) -> Tensor:
    """The length of the longest row, in fp32 at least."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    return torch.linalg.vector_norm(features, dim=1, dtype=dtype).max()


def shifted_sums(
    img: Tensor, txt: Tensor, scale: Tensor, shift: float, tile_size: int | None = None,
    cache: list[Tensor] | None = None, paired: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Row sums `(rows,)` and column sums `(cols,)` of exp(X - shift) without the diagonal: one product.

    `cache` holds empty buffers (see `cache_buffers`); the first tiles of the visit leave their exponentials in them.
    """
    row_sums, col_sums = img.new_zeros(len(img)), img.new_zeros(len(txt))
    row_blocks, col_blocks = tile_grid(len(img), len(txt), tile_size)
    cached = _places(cache, row_blocks, col_blocks)

    def fold(tiles: Tiles) -> None:
        for i, j, tile in visit(img, txt, scale, tile_size, tiles, paired=paired):
            _shifted_exp(tile, shift)
            row_sums[i] += tile.sum(1)
            col_sums[j] += tile.sum(0)
            if (i.start, j.start) in cached:
                _view(cached[i.start, j.start], i, j).copy_(tile)

    share_tiles(fold, row_blocks, col_blocks, img.device)
    return row_sums, col_sums


def shifted_grads(
    img: Tensor, txt: Tensor, scale: Tensor, shift: float, row_weights: Tensor, col_weights: Tensor, grads: Grads,
    tile_size: int | None = None, cache: list[Tensor] | None = None, grad_dtype: torch.dtype | None = None,
    paired: bool = True,
) -> None:  # fmt: skip
    """Add G txt to `grads[0]` and G^T img to `grads[1]`, G_ij = exp(X_ij - shift) (row_weights_i + col_weights_j).

    Three products: the tile again, then one for each gradient; a gradient that is None costs nothing, and neither
    does the recompute of a tile in `cache`. With `grad_dtype=torch.bfloat16` the two gradient products take operands
    rounded to bf16 and sum their results in fp32.
    """
    row_blocks, col_blocks = tile_grid(len(img), len(txt), tile_size)
    cached = _places(cache, row_blocks, col_blocks)
    low = img.to(grad_dtype or img.dtype), txt.to(grad_dtype or txt.dtype)

    def fold(tiles: Tiles) -> None:
        buffer = _buffer(img, txt, tile_size)
        for i, j, tile in visit(img, txt, scale, tile_size, tiles, cached, paired):
            tile = _view(cached[i.start, j.start], i, j) if tile is None else _shifted_exp(tile, shift)
            grad = torch.add(row_weights[i, None], col_weights[j], out=_view(buffer, i, j))  # (rows, cols)
            add_products(grad.mul_(tile), i, j, low[0][i], low[1][j], grads)

    share_tiles(fold, row_blocks, col_blocks, img.device)


def pair_sums(
    img: Tensor, txt: Tensor, scale: Tensor, tile_size: int | None = None, paired: bool = True
) -> tuple[Tensor, Tensor]:
    """Row and column log-sum-exps of X without the diagonal, for logits of any size: running states, one product."""
    rows, cols = (lse.empty((len(side),), dtype=img.dtype, device=img.device) for side in (img, txt))

    def fold(tiles: Tiles) -> None:
        for i, j, tile in visit(img, txt, scale, tile_size, tiles, paired=paired):
            for pair, index, dim in ((rows, i, 1), (cols, j, 0)):
                merged = lse.update((pair.m[index], pair.s[index]), tile, dim)
                pair.m[index], pair.s[index] = merged

    share_tiles(fold, *tile_grid(len(img), len(txt), tile_size), img.device)
    return lse.value(rows), lse.value(cols)


def pair_grads(
    img: Tensor, txt: Tensor, scale: Tensor, row_lse: Tensor, col_lse: Tensor, grads: Grads,
    tile_size: int | None = None, grad_dtype: torch.dtype | None = None, paired: bool = True,
) -> None:  # fmt: skip
    """As `shifted_grads` with G_ij = exp(X_ij - row_lse_i) + exp(X_ij - col_lse_j): any logits, two exponentials."""
    low = img.to(grad_dtype or img.dtype), txt.to(grad_dtype or txt.dtype)

    def fold(tiles: Tiles) -> None:
        buffer = _buffer(img, txt, tile_size)
        for i, j, tile in visit(img, txt, scale, tile_size, tiles, paired=paired):
            grad = torch.sub(tile, row_lse[i, None], out=_view(buffer, i, j)).exp_()
            grad += tile.sub_(col_lse[j]).exp_()
            add_products(grad, i, j, low[0][i], low[1][j], grads)

    share_tiles(fold, *tile_grid(len(img), len(txt), tile_size), img.device)


def sigmoid_visit(
    img: Tensor, txt: Tensor, scale: Tensor, bias: Tensor, grads: Grads, tile_size: int | None = None,
    paired: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Sum of softplus(X + bias) over all negatives, and of its derivative sigmoid(X + bias), one value each.

    There is no normaliser to wait for, so the gradient products are added to `grads` in the same visit: three
    products in all, one when both gradients are None.
    """

    def fold(tiles: Tiles) -> Tensor:
        loss, slope = sums = img.new_zeros(2)
        for i, j, tile in visit(img, txt, scale, tile_size, tiles, paired=paired):
            tile += bias
            loss += F.softplus(tile, threshold=50).sum()
            grad = tile.sigmoid_()
            slope += grad.sum()
            add_products(grad, i, j, img[i], txt[j], grads)
        return sums

    loss, slope = sum(share_tiles(fold, *tile_grid(len(img), len(txt), tile_size), img.device))
    return loss, slope


def cache_buffers(
    img: Tensor, txt: Tensor, cache_bytes: float, tile_size: int | None = None, dtype: torch.dtype | None = None
) -> list[Tensor]:
    """Empty buffers for as many tiles as fit into `cache_bytes`, at most all of them."""
    row_blocks, col_blocks = tile_grid(len(img), len(txt), tile_size)
    shape, dtype = (_size(row_blocks[0]), _size(col_blocks[0])), dtype or img.dtype
    fitting = cache_bytes / (shape[0] * shape[1] * dtype.itemsize)
    count = int(min(fitting, len(row_blocks) * len(col_blocks)))
    return [img.new_empty(shape, dtype=dtype) for _ in range(count)]


def _places(cache: list[Tensor] | None, rows: list[slice], cols: list[slice]) -> dict[tuple[int, int], Tensor]:
    """The buffers of `cache` by where their tiles start: the first tiles of the visit have one."""
    return {(i.start, j.start): buffer for (i, j), buffer in zip(itertools.product(rows, cols), cache or [])}


def _shifted_exp(tile: Tensor, shift: float) -> Tensor:
    return tile.sub_(shift).exp_() if shift else tile.exp_()


def _buffer(img: Tensor, txt: Tensor, tile_size: int | None) -> Tensor:
    return img.new_empty(min(len(img), tile_size or TILE_ROWS), min(len(txt), tile_size or TILE_COLS))


def _size(block: slice) -> int:
    return block.stop - block.start


def _view(buffer: Tensor, i: slice, j: slice) -> Tensor:
    rows, cols = _size(i), _size(j)
    return buffer.view(-1)[: rows * cols].view(rows, cols)
