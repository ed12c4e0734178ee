"""Matrix products whose sums are fp32 at least, whatever is multiplied.

A GPU multiplies bf16 and fp16 as they are and sums in fp32 (`out_dtype`). A CPU rounds a product to the dtype of its
factors: fp16 is widened first, bf16 too but for gradients that ask for it. See notebooks/10_score_a_long_answer.ipynb.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def sums_dtype(*operands: Tensor) -> torch.dtype:
    """The dtype of every sum: fp32, or fp64 when an operand has it."""
    return torch.float64 if any(x.dtype == torch.float64 for x in operands) else torch.float32


def operand_dtype(*operands: Tensor) -> torch.dtype:
    """What products take: bf16 as it is on a GPU, where no copy is widened, else the dtype of the sums.

    fp16 is widened: the gradient of a logit may be too small for it.
    """
    as_they_are = all(x.is_cuda and x.dtype == torch.bfloat16 for x in operands)
    return torch.bfloat16 if as_they_are else sums_dtype(*operands)


def product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """out = a b, summed in the dtype of `out`."""
    return torch.mm(a, b, out=out) if a.dtype == out.dtype else torch.mm(a, b, out_dtype=out.dtype, out=out)


def add_products(
    grad: Tensor, i: slice, j: slice, rows: Tensor, cols: Tensor, grads: Sequence[Tensor | None], factor: float = 1.0
) -> None:
    """grads[0][i] += factor G cols and grads[1][j] += factor G^T rows, each in its own dtype; None costs nothing."""
    grad = grad.to(rows.dtype)
    for total, part, a, b in zip(grads, (i, j), (grad, grad.T), (cols, rows)):
        if total is None:
            continue
        wide = total[part]
        if a.dtype == wide.dtype:
            torch.addmm(wide, a, b, alpha=factor, out=wide)
        elif a.is_cuda:
            torch.addmm(wide, a, b, out_dtype=wide.dtype, alpha=factor, out=wide)
        elif a.dtype == torch.bfloat16:
            wide.add_(torch.mm(a, b), alpha=factor)  # the product is rounded to bf16; the sum over tiles stays in fp32
        else:  # fp16 has not the range for a product
            torch.addmm(wide, a.to(wide.dtype), b.to(wide.dtype), alpha=factor, out=wide)
