"""The fused twins of `vocab_tiled`: the same sums and gradients, each visit of the logits one Triton kernel.

    forward     one kernel     l_t, every tile folded before it leaves the registers
    backward    per chunk      G = ([v = y] - p) f by one kernel into a constant scratch, then two library products
                               dh += G w,  dw += G^T h,  accumulated in fp32

where the names are those of `vocab_tiled`, whose functions have the same arguments and results here. Operands are fp32,
fp16 or bf16, of one dtype, multiplied as they are; an fp16 scratch holds G scaled to the full range of fp16. `sweep`
visits the logits twice here. Not yet run on a GPU. Taught in notebooks/10_score_a_long_answer.ipynb.
"""

import math

import torch
from torch import Tensor

from minilib import lse
from minilib.kernels import triton_launch as launch
from minilib.kernels import triton_tiles as triton_vocabulary
from minilib.kernels.contrastive_fused import CHUNK, GAIN, _add_product
from minilib.kernels.contrastive_tiled import Grads, blocks

PART = 2**14  # rows whose labels are looked up at a time
PROGRAMS = 256  # two for each of 128 multiprocessors; rows are cut into blocks first, then the vocabulary into slices
# By bytes per element, as in `launch`: with at most 128 registers, two programs share a multiprocessor; nothing spills.
TILES = {2: (128, 128, 8, 3, 128), 4: launch.FIXED[4]}


def log_sums(hidden: Tensor, weight: Tensor, labels: Tensor, tile_size: int | None = None) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of every row of logits and the logit of its label, both (n,) fp32, in one launch: one product.

    `tile_size` is not used; the tiles live in registers.
    """
    if len(hidden) == 0:
        return hidden.new_empty(0, dtype=torch.float32), hidden.new_empty(0, dtype=torch.float32)
    tile, row_blocks = _tile(hidden), math.ceil(len(hidden) / _tile(hidden)["BM"])
    wanted = 2 if launch.INTERPRETED else math.ceil(PROGRAMS / max(row_blocks, 1))
    slices = max(1, min(wanted, math.ceil(len(weight) / tile["BN"])))
    m, s = hidden.new_empty((2, slices, len(hidden)), dtype=torch.float32)
    _run(triton_vocabulary.row_sums, (row_blocks, slices), hidden, weight, [m, s])
    total = lse.empty((len(hidden),), device=hidden.device)
    for k in range(slices):
        total = lse.merge(total, (m[k] * math.log(2), s[k]))  # the kernel uses base 2
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
            tile = _tile(hidden)
            grid = math.ceil(grad.shape[0] / tile["BM"]), math.ceil(grad.shape[1] / tile["BN"])
            tensors = [labels[i], sums[i], factors[i], grad]
            _run(triton_vocabulary.row_grads, grid, hidden[i], weight[j], tensors, j.start, grad.stride(0))
            if grads[0] is not None:
                _add_product(grads[0][i], grad, weight[j], back)  # (rows, d)
            if grads[1] is not None:
                _add_product(grads[1][j], grad.T, hidden[i], back)  # (entries, d)


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


def _tile(operand: Tensor) -> dict[str, int]:
    if launch.INTERPRETED:
        return launch.INTERPRETED_TILE
    return launch.config(*TILES[operand.element_size()]).all_kwargs()


def _run(kernel, grid, hidden: Tensor, weight: Tensor, tensors: list[Tensor], *numbers: int) -> None:
    hidden, weight = (side if side.stride(1) == 1 else side.contiguous() for side in (hidden, weight))
    dim, line = hidden.shape[1], 128 // hidden.element_size()  # one 128-byte line of shared memory: the step along d
    full_fp32 = hidden.dtype == torch.float32 and not launch.INTERPRETED  # three TF32 products
    flags = {"BK": line, "EVEN": dim % line == 0, "PRECISION": "tf32x3" if full_fp32 else "ieee"}
    sizes = len(hidden), len(weight), dim, hidden.stride(0), weight.stride(0), launch.NO_PARTNER
    with torch.cuda.device_of(hidden):
        kernel[grid](hidden, weight, *tensors, *sizes, *numbers, **_tile(hidden), **flags)
