"""Checks of labs 12 and 13: the outlier that is rotated away, and the indices that are dropped and grown."""

from collections.abc import Callable

import scipy
import torch
from torch import Tensor

from minilib.teaching.checks.contract import compare, run, untouched


def check_rotated_product(learner: Callable[[Tensor, Tensor, Tensor, Callable], Tensor]) -> None:
    """Exercise: `rotated_product(X, W, signs, rounded)`, `X @ W.T` from factors that are rotated, then rounded."""
    cases = {
        "without rounding": lambda fn: _product(fn, lambda x: x),
        "with rounding": lambda fn: _product(fn, _coarse),
    }
    run(untouched(learner), cases, "a rotation changes no product and spreads an outlier over all features")


def check_drop_and_grow(learner: Callable[[Tensor, Tensor, Tensor, Tensor, int], tuple]) -> None:
    """Exercise: `drop_and_grow(active, change, grad, momentum, count)`, the new `(active, momentum)`, kept first."""
    cases = {
        "for 4 active of 8 indices, 1 exchanged": lambda fn: _exchange(fn, 1),
        "2 exchanged": lambda fn: _exchange(fn, 2),
    }
    run(untouched(learner), cases, "what changed least is needed least, and a new index starts without a past")


def _coarse(x: Tensor) -> Tensor:
    return (x * 2).round() / 2


def _product(fn: Callable, rounded: Callable) -> str | None:
    X, W = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    X[:, 3] *= 10
    signs = torch.tensor(scipy.linalg.hadamard(8)).double()
    H = signs / 8**0.5
    suspects = {
        "only X is rotated: W needs the same rotation, or the product is another": rounded(X @ H) @ rounded(W).T,
        "only W is rotated: X needs the same rotation": rounded(X) @ rounded(W @ H).T,
        "1 / sqrt(n) is missing: signs @ signs.T is n times the identity": rounded(X @ signs) @ rounded(W @ signs).T,
        "the factors are rounded before the rotation, while the outlier stands out": (rounded(X) @ H)
        @ (rounded(W) @ H).T,
    }
    return compare(fn(X, W, signs, rounded), rounded(X @ H) @ rounded(W @ H).T, suspects)


def _exchange(fn: Callable, count: int) -> str | None:
    active, momentum = torch.tensor([1, 3, 4, 6]), torch.tensor([10.0, 30, 40, 60]).double()
    change = torch.tensor([0.1, -3.0, 0.2, 5.0]).double()
    grad = torch.tensor([0.5, 9.0, -3.0, 8.0, 7.0, 2.0, 6.0, 0.1]).double()
    got = fn(active.clone(), change.clone(), grad.clone(), momentum.clone(), count)
    kept, grown, zero = torch.tensor([3, 4, 6]), torch.tensor([2]), torch.zeros(1).double()
    past = torch.tensor([30.0, 40, 60]).double()
    if count == 2:
        kept, grown, zero, past = torch.tensor([3, 6]), torch.tensor([2, 5]), torch.zeros(2).double(), past[[0, 2]]
    dropped = momentum[: 2 * count : 2] if count == 2 else momentum[:1]
    most = change.abs().topk(4 - count, largest=False).indices.sort().values
    signed = change.topk(4 - count).indices.sort().values
    suspects = {
        "the grown index keeps the momentum of the dropped one: a new index starts at 0": (
            torch.cat([kept, grown]),
            torch.cat([past, dropped]),
        ),
        "those that changed most are dropped: keep them": (
            torch.cat([active[most], grown]),
            torch.cat([momentum[most], zero]),
        ),
        "the sign of the change matters to you: a large negative change is a large one": (
            torch.cat([active[signed], grown]),
            torch.cat([momentum[signed], zero]),
        ),
        "an index that is active already is grown: look among the others": (
            torch.cat([kept, grad.abs().topk(count).indices]),
            torch.cat([past, zero]),
        ),
    }
    return compare(got, (torch.cat([kept, grown]), torch.cat([past, zero])), suspects)
