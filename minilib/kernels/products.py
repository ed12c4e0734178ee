"""Matrix products whose sums are fp32 at least, whatever is multiplied.

A GPU multiplies bf16 and fp16 as they are and sums in fp32 (`out_dtype`). A CPU product would round its result to the
dtype of its factors, so there they are widened first. Taught in notebooks/10_score_a_long_answer.ipynb.
"""

import torch
from torch import Tensor


def on_gpu(operand: Tensor) -> bool:
    """Whether products of this tensor can be summed in a wider dtype than its own."""
    return operand.is_cuda


def sums_dtype(*operands: Tensor) -> torch.dtype:
    """The dtype of every sum: fp32, or fp64 when an operand has it."""
    return torch.float64 if any(x.dtype == torch.float64 for x in operands) else torch.float32


def operand_dtype(*operands: Tensor) -> torch.dtype:
    """What products take: bf16 as it is on a GPU, where no copy is widened, else the dtype of the sums.

    fp16 is widened: the gradient of a logit may be too small for it.
    """
    as_they_are = all(on_gpu(x) and x.dtype == torch.bfloat16 for x in operands)
    return torch.bfloat16 if as_they_are else sums_dtype(*operands)


def product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """out = a b, summed in the dtype of `out`."""
    return torch.mm(a, b, out=out) if a.dtype == out.dtype else torch.mm(a, b, out_dtype=out.dtype, out=out)


def add_product(total: Tensor, a: Tensor, b: Tensor, factor: float = 1.0) -> None:
    """total += factor a b, summed in the dtype of `total`."""
    if a.dtype == total.dtype:
        torch.addmm(total, a, b, alpha=factor, out=total)
    elif on_gpu(a):
        torch.addmm(total, a, b, out_dtype=total.dtype, alpha=factor, out=total)
    else:
        torch.addmm(total, a.to(total.dtype), b.to(total.dtype), alpha=factor, out=total)
