"""The fused twins of `vocab_tiled`: the same sums and gradients, each visit of the logits one Triton kernel.

    forward     one kernel     l_t, every tile folded before it leaves the registers
    backward    per chunk      G = ([v = y] - p) f by one kernel into a constant scratch, then two library products
                               dh += G w,  dw += G^T h,  accumulated in fp32

where the names are those of `vocab_tiled`, whose functions have the same arguments and results here. Operands are fp32,
fp16 or bf16, of one dtype, multiplied as they are; an fp16 scratch holds G scaled to the full range of fp16. `sweep`
visits the logits twice here. Taught in notebooks/10_score_a_long_answer.ipynb.
"""

import math
from functools import reduce

import torch
from torch import Tensor

from minilib import lse
from minilib.kernels.contrastive_fused import CHUNK, GAIN
from minilib.kernels.contrastive_tiled import Grads, blocks
from minilib.kernels.products import add_products
from minilib.kernels.triton_launch import INTERPRETED, NO_PARTNER, choose, launch

PART = 2**14  # rows whose labels are looked up at a time
PROGRAMS = 256  # two for each of 128 multiprocessors; rows are cut into blocks first, then the vocabulary into slices


def log_sums(hidden: Tensor, weight: Tensor, labels: Tensor, tile_size: int | None = None) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of every row of logits and the logit of its label, both (n,) fp32, in one launch: one product.

    `tile_size` is not used; the tiles live in registers.
    """
    if len(hidden) == 0:
        return hidden.new_empty(0, dtype=torch.float32), hidden.new_empty(0, dtype=torch.float32)
    tile = choose("row_sums", hidden.element_size(), 0)[1]
    row_blocks = math.ceil(len(hidden) / tile["BM"])
    wanted = 2 if INTERPRETED else math.ceil(PROGRAMS / row_blocks)
    slices = max(1, min(wanted, math.ceil(len(weight) / tile["BN"])))
    m, s = hidden.new_empty((2, slices, len(hidden)), dtype=torch.float32)
    launch("row_sums", hidden, weight, [m, s], NO_PARTNER, grid=(row_blocks, slices))
    total = reduce(lse.merge, zip(m * math.log(2), s))  # the kernel uses base 2
    return lse.value(total), torch.cat([_at_label(hidden[i], weight, labels[i]) for i in blocks(len(hidden), PART)])


def add_grads(
    hidden: Tensor, weight: Tensor, labels: Tensor, sums: Tensor, factors: Tensor, grads: Grads,
    tile_size: int | None = None,
) -> None:  # fmt: skip
    """Add the gradients of sum_t factors_t logp_t to `grads`, both fp32; three products.

    `tile_size` is the side of the chunk of G that is held at a time, in the dtype of the operands.
    """
    gain, back = _gain(factors, hidden.dtype)
    factors, chunk = factors.float() * gain, tile_size or CHUNK
    labels, factors = labels.contiguous(), factors.contiguous()  # the kernel reads one number after the other
    scratch = hidden.new_empty(min(chunk, len(hidden)), -(-min(chunk, len(weight)) // 16) * 16)  # aligned rows
    for i in blocks(len(hidden), chunk):
        for j in blocks(len(weight), chunk):
            grad = scratch[: i.stop - i.start, : j.stop - j.start]
            tensors = [labels[i], sums[i], factors[i], grad]
            launch("row_grads", hidden[i], weight[j], tensors, NO_PARTNER, j.start, grad.stride(0))
            add_products(grad, i, j, hidden[i], weight[j], grads, back)


def sweep(
    hidden: Tensor, weight: Tensor, labels: Tensor, factors: Tensor, grads: Grads, tile_size: int | None = None
) -> Tensor:
    """The log-probabilities (n,); gradients of sum_t factors_t logp_t go to `grads`."""
    sums, picked = log_sums(hidden, weight, labels)
    add_grads(hidden, weight, labels, sums, factors, grads, tile_size)
    return picked - sums


def _at_label(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return (hidden.float() * weight[labels].float()).sum(1)  # O(n d); in the kernel it would cost registers


def _gain(factors: Tensor, dtype: torch.dtype) -> tuple[float, float]:
    # |[v = y] - p| <= 1, so factors of at most 2^14 fill the range of fp16; other dtypes have range enough as they are
    if dtype not in GAIN:
        return 1.0, 1.0
    largest = factors.abs().max().item() if len(factors) else 0.0
    gain = GAIN[dtype] / largest if 0 < largest < math.inf else 1.0
    return gain, 1 / gain
