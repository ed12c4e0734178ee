"""Memory that shows what a kernel reads and writes outside: inputs surrounded by NaN, outputs by known values.

A kernel reads and writes through bare pointers, so a forgotten mask is silent. Here every matrix lies inside a larger
buffer, with more room around it than any tile of the exercises needs: what is read outside arrives as NaN, what is
written outside is found afterwards, and a wrong stride stays within memory that belongs to the check.

Used by `lesson05`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

NAN, UNTOUCHED = float("nan"), float("inf")
ROOM = 80  # rows and columns on every side


def source(matrix: Tensor, extra: int = 0) -> Tensor:
    """A copy of the matrix (rows, cols) with NaN all around; `extra` widens its stride."""
    inside = _inside(*matrix.shape, extra, NAN)[1]
    return inside.copy_(matrix)


def rows_before_nan(matrix: Tensor) -> Tensor:
    """A contiguous copy (rows, cols) with rows of NaN behind its end."""
    return torch.cat([matrix, matrix.new_full((ROOM, matrix.shape[1]), NAN)])[: len(matrix)]


def target(rows: int, cols: int, extra: int = 0) -> tuple[Tensor, Callable[[], bool]]:
    """A matrix (rows, cols) of infinities to write to, and a function: is all around it as it was?"""
    buffer, inside = _inside(rows, cols, extra, UNTOUCHED)
    outside = buffer.numel() - inside.numel()
    return inside, lambda: int(buffer.isinf().sum() - inside.isinf().sum()) == outside


def table(count: int, length: int) -> tuple[Tensor, Callable[[], bool]]:
    """A contiguous table (count, length) of zeros, and a function: is the memory behind it as it was?

    There lies -0.0, because a careless lane that adds nothing and stores the sum still turns it into 0.0.
    """
    buffer = torch.cat([torch.zeros(count * length), torch.full((ROOM,), -0.0)])
    behind = buffer[count * length :]
    return buffer[: count * length].view(count, length), lambda: bool((behind.signbit() & (behind == 0)).all())


def _inside(rows: int, cols: int, extra: int, fill: float) -> tuple[Tensor, Tensor]:
    buffer = torch.full((rows + 2 * ROOM, cols + 2 * ROOM + extra), fill)
    return buffer, buffer[ROOM : ROOM + rows, ROOM : ROOM + cols]
