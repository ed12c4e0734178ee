"""The running log-sum-exp state and its merge: the one idea of this library.

A sum of exponentials is carried as a state (m, s) and never as a plain number:

    log sum_j exp(x_j)  =  m + log s,      s = sum_j exp(x_j - m)

where
    x_j   logits, anything from -inf to the largest finite float
    m     running maximum of the logits seen so far
    s     their sum, rescaled by exp(-m), so that no exponential exceeds 1

Two states merge into the state of the union, in any order and any grouping:

    m = max(m_a, m_b),      s = s_a exp(m_a - m) + s_b exp(m_b - m)

with the identity (-inf, 0). So a sum may be folded over tiles, over program blocks, over ranks and over a vocabulary.

Departure from the paper: Inf-CL's Eq. 4 starts the running value at 0, which adds a phantom exp(0) to every sum, and
writes the merge as l + log(1 + exp(t - l)), which overflows. Ours starts at -inf and subtracts the maximum first.
Taught in notebooks/03_add_logs_of_sums.ipynb.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class LSEState(NamedTuple):
    """A partial sum of exponentials: running maximum `m` and rescaled sum `s`, tensors of equal shape."""

    m: Tensor
    s: Tensor


def empty(
    shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> LSEState:
    """The identity of `merge`: the state of a sum without terms, (-inf, 0)."""
    s = torch.zeros(shape, dtype=dtype, device=device)
    return LSEState(torch.full_like(s, float("-inf")), s)


def of_block(x: Tensor, dim: int = -1) -> LSEState:
    """The state of one block of logits, reduced over `dim`; a row of -inf, or none at all, gives the identity."""
    if x.shape[dim] == 0:
        return empty(x.sum(dim).shape, dtype=x.dtype, device=x.device)
    m = x.amax(dim)
    return LSEState(m, torch.exp(x - _reference(m).unsqueeze(dim)).sum(dim))


def merge(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> LSEState:
    """Merge two states `(m, s)` of equal shape, in any order up to rounding; identities never give NaN."""
    m = torch.maximum(a[0], b[0])
    reference = _reference(m)
    return LSEState(m, a[1] * torch.exp(a[0] - reference) + b[1] * torch.exp(b[0] - reference))


def update(state: tuple[Tensor, Tensor], x: Tensor, dim: int = -1) -> LSEState:
    """The running step: merge one more block of logits, reduced over `dim`, into `state`."""
    return merge(state, of_block(x, dim))


def value(state: tuple[Tensor, Tensor]) -> Tensor:
    """The number that the state stands for, m + log s; -inf for the identity."""
    return state[0] + torch.log(state[1])


def _reference(m: Tensor) -> Tensor:
    # inf - inf is NaN: where the maximum is not finite, any finite reference gives the right limit.
    return torch.where(torch.isfinite(m), m, torch.zeros_like(m))
