"""The fused twins of `contrastive_tiled`: the same sums and gradients, each visit of the tiles one Triton kernel.

    forward     one kernel     row and column sums of exp(X - h), every tile folded before it leaves the registers
    backward    per chunk      G = exp(X - h) (a + c) by one kernel into a constant scratch, then two library products
                               dimg += G txt,  dtxt += G^T img,  accumulated in fp32

where X, h, a, c are those of `contrastive_tiled`, whose functions have the same names and results here. Features are
fp32, fp16 or bf16, multiplied as they are; the scale is applied to the fp32 products. G is at most 2, so an fp16
scratch holds 2^14 G, the range of fp16 used in full. No atomics: results repeat bit by bit.

Departure from the paper: Inf-CL accumulates its gradients through global memory, one kernel per side, each recomputing
the logits, 10 products in all; the scratch costs 8,192^2 numbers whatever the batch and leaves 4 products.
Taught in notebooks/05_fuse_it_in_triton.ipynb.
"""

import math
from collections.abc import Iterator
from functools import reduce

import torch
from torch import Tensor

from minilib import lse
from minilib.kernels.contrastive_tiled import HEADROOM, Grads, blocks, largest_norm
from minilib.kernels.products import add_products
from minilib.kernels.triton_launch import GRID, NO_PARTNER, SMALLEST_TILE, launch

CHUNK = 8192  # side of the gradient scratch: 128 output tiles for each library product at d = 512, one wave on an H100
NARROW, NARROW_CHUNK = 256, 16384  # for features up to this width, so that the products still fill the GPU
GAIN = {torch.float16: 2.0**14}  # G <= 2 becomes at most 32,768


def shared_shift(img: Tensor, txt: Tensor, scale: Tensor) -> Tensor:
    """The shift h of `tiled.shared_shift` as a tensor that stays on the GPU, so that the host need not wait for it.

    It is never None: where the bound on the logits is too large for one shift, the sums come out too small, and the
    losses turn to `pair_sums`.
    """
    return (scale.abs() * largest_norm(img) * largest_norm(txt) - HEADROOM).clamp_min(0)


def shifted_sums(
    img: Tensor, txt: Tensor, scale: Tensor, shift: Tensor | float, tile_size: int | None = None, paired: bool = True
) -> tuple[Tensor, Tensor]:
    """Row sums `(rows,)` and column sums `(cols,)` of exp(X - shift), fp32, in one launch: one product.

    `tile_size` is not used; the tiles live in registers.
    """
    row_sums, col_sums = _table(GRID[1], img), _table(GRID[0], txt)
    tensors = [_number(scale, img), _number(shift, img), row_sums, col_sums]
    launch("shifted_sums", img, txt, tensors, 0 if paired else NO_PARTNER, grid=GRID)
    return row_sums.sum(0), col_sums.sum(0)


def pair_sums(
    img: Tensor, txt: Tensor, scale: Tensor, tile_size: int | None = None, paired: bool = True
) -> tuple[Tensor, Tensor]:
    """Row and column log-sum-exps of X for logits of any size: running states, two exponentials, one product."""
    sides = (GRID[1], img), (GRID[0], txt)
    tables = [_table(count, side, start) for count, side in sides for start in (-math.inf, 0.0)]  # m and s of each
    launch("pair_sums", img, txt, [_number(scale, img), *tables], 0 if paired else NO_PARTNER, grid=GRID)
    rows, cols = zip(tables[0] * math.log(2), tables[1]), zip(tables[2] * math.log(2), tables[3])  # kernels use base 2
    return lse.value(reduce(lse.merge, rows)), lse.value(reduce(lse.merge, cols))


def shifted_grads(
    img: Tensor, txt: Tensor, scale: Tensor, shift: Tensor | float, row_weights: Tensor, col_weights: Tensor,
    grads: Grads, tile_size: int | None = None, paired: bool = True,
) -> None:  # fmt: skip
    """Add G txt to `grads[0]` and G^T img to `grads[1]`, both fp32, G_ij = exp(X_ij - shift) (row_i + col_j).

    `tile_size` is the side of the chunk of G that is held at a time, in the dtype of the features. Three products; a
    gradient that is None costs nothing.
    """
    gain, numbers = GAIN.get(img.dtype, 1.0), [_number(scale, img), _number(shift, img)]
    row_terms, col_terms = row_weights * gain, col_weights * gain
    for i, j, grad, partner in _chunks(img, txt, tile_size, paired):
        tensors = [*numbers, row_terms[i], col_terms[j], grad]
        launch("softmax_grads", img[i], txt[j], tensors, partner, grad.stride(0), PAIRS=False)
        add_products(grad, i, j, img[i], txt[j], grads, 1 / gain)


def pair_grads(
    img: Tensor, txt: Tensor, scale: Tensor, row_lse: Tensor, col_lse: Tensor, grads: Grads,
    tile_size: int | None = None, paired: bool = True,
) -> None:  # fmt: skip
    """As `shifted_grads` with G_ij = exp(X_ij - row_lse_i) + exp(X_ij - col_lse_j): any logits, two exponentials."""
    gain, numbers = GAIN.get(img.dtype, 1.0), [_number(scale, img), _number(0.0, img)]
    row_terms, col_terms = ((math.log(gain) - side) / math.log(2) for side in (row_lse, col_lse))
    for i, j, grad, partner in _chunks(img, txt, tile_size, paired):
        tensors = [*numbers, row_terms[i], col_terms[j], grad]
        launch("softmax_grads", img[i], txt[j], tensors, partner, grad.stride(0), PAIRS=True)
        add_products(grad, i, j, img[i], txt[j], grads, 1 / gain)


def sigmoid_visit(
    img: Tensor, txt: Tensor, scale: Tensor, bias: Tensor, grads: Grads, tile_size: int | None = None,
    paired: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Sum of softplus(X + bias) over all pairs left, and of sigmoid(X + bias), with the gradients in the same visit."""
    gain, numbers = GAIN.get(img.dtype, 1.0), [_number(scale, img), _number(-bias, img)]
    kept = gain if any(grad is not None for grad in grads) else 0.0  # 0: no gradient is asked for, none is written
    sums = torch.zeros(2, dtype=torch.float64, device=img.device)  # thousands of partial sums: their sum costs nothing
    for i, j, grad, partner in _chunks(img, txt, tile_size, paired):
        programs = math.prod(-(-size // SMALLEST_TILE) for size in grad.shape)  # as many as the smallest tile needs
        slots = grad.new_zeros((2, programs), dtype=torch.float32)  # two sums for each program; the rest stay 0
        launch("sigmoid_visit", img[i], txt[j], [*numbers, *slots, grad], partner, grad.stride(0), GAIN=kept)
        sums += slots.sum(1, dtype=torch.float64)
        add_products(grad, i, j, img[i], txt[j], grads, 1 / gain)
    return sums[0].float(), sums[1].float()


def _chunks(img: Tensor, txt: Tensor, chunk: int | None, paired: bool) -> Iterator[tuple[slice, slice, Tensor, int]]:
    """Row slice, column slice, the scratch in their shape, and the distance from a row to its partner column."""
    chunk = chunk or (NARROW_CHUNK if img.shape[1] <= NARROW else CHUNK)
    rows, cols = min(chunk, len(img)), min(chunk, len(txt))
    scratch = img.new_empty(rows, -(-cols // 16) * 16)  # rows start on aligned addresses, whatever the batch
    for i in blocks(len(img), chunk):
        for j in blocks(len(txt), chunk):
            partner = i.start - j.start if paired else NO_PARTNER
            yield i, j, scratch[: i.stop - i.start, : j.stop - j.start], partner


def _table(count: int, features: Tensor, fill: float = 0.0) -> Tensor:
    """Partial sums for every row of `features`, one line for each program that adds to it: (count, rows), fp32."""
    return features.new_full((count, len(features)), fill, dtype=torch.float32)


def _number(value: Tensor | float, like: Tensor) -> Tensor:
    # The kernels read the scale from memory: a number that is on the GPU never makes the host wait for it.
    return torch.as_tensor(value, dtype=torch.float32, device=like.device)
