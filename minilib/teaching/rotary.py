"""Rotary positions in three lines, for labs that look at them one head at a time.

Entries 2j and 2j + 1 of a row are one pair, turned by the angle position * theta_j, theta_j = base^(-2j / d), so that
the product of two turned rows knows their distance alone. Used by labs 2 and 4; lesson 12 lets the reader write it.
"""

import torch
from torch import Tensor


def speeds(dim: int, base: float = 10_000.0) -> Tensor:
    """The angle that each pair turns per position, `(dim / 2,)`."""
    return base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)


def rotate(x: Tensor, positions: Tensor | float, theta: Tensor) -> Tensor:
    """Rows of `x (n, d)` at `positions (n,)`, or all at one position, turned pair by pair."""
    angle = torch.as_tensor(positions, dtype=theta.dtype).reshape(-1, 1) * theta  # (n, d / 2)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)
