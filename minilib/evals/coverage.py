"""What synthesised positions leave out: how often each position, and each distance between two tokens, was seen.

    count(p)      = sum over samples of [p is among the sample's positions]                         0 <= p < K
    distances(d)  = sum over samples of the number of token pairs (i, j) with pos_i - pos_j = d     0 <= d < K
    share(counts) = part of the counts above zero

A sample's distances are the autocorrelation of its indicator function, which a Fourier transform gives in K log K steps
instead of k^2: exact, because the counts are small integers. With `query`, only distances from that token (such as -1,
the last) are counted: what the question sees. Taught in notebooks/12_stretch_positions_without_long_inputs.ipynb.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def count_positions(samples: Iterable[Tensor], target: int) -> Tensor:
    """How many of the samples hold each position: `(target,)` int64."""
    counts = torch.zeros(target, dtype=torch.long)
    for positions in samples:
        counts[_below(positions, target)] += 1
    return counts


def count_distances(samples: Iterable[Tensor], target: int, *, query: int | None = None) -> Tensor:
    """How many token pairs of the samples lie each distance apart, a token and itself included: `(target,)` int64."""
    counts = torch.zeros(target, dtype=torch.long)
    for positions in samples:
        positions = _below(positions, target)
        if query is not None:
            back = positions[query] - positions
            counts += torch.bincount(back[back >= 0], minlength=target)
            continue
        present = torch.zeros(2 * target, dtype=torch.float64)  # the zeros above keep the correlation from wrapping
        present[positions] = 1
        spectrum = torch.fft.rfft(present)
        counts += torch.fft.irfft(spectrum.abs() ** 2, n=2 * target)[:target].round().long()
    return counts


def share(counts: Tensor) -> float:
    """The part of the counts that is not zero."""
    return (counts > 0).double().mean().item()


def _below(positions: Tensor, target: int) -> Tensor:
    positions = torch.as_tensor(positions)
    if len(positions) and (positions.min() < 0 or positions.max() >= target):
        raise ValueError(
            f"samples hold positions from {int(positions.min())} to {int(positions.max())} and target is {target}: "
            "give the target that the positions were made for."
        )
    return positions
