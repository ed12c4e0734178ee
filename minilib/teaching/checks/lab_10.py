"""Checks of lab 10, index with words, bits and angles: the rotation between two spaces, the penalty on words.

The judge of the rotation is a known one, without and with noise; of the penalty, its value by hand and its gradient.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minilib.teaching.checks.contract import MISSING, as_tensor, close, compare, run, untouched


def check_fit_rotation(learner: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Exercise: `fit_rotation(X, Y)`, the orthogonal `(d, d)` that brings `X` closest to `Y`, both `(n, d)`."""
    cases = {
        "for 20 rows turned by a known rotation": lambda fn: _turned(fn, 0.0),
        "for 20 rows turned, with noise": lambda fn: _turned(fn, 0.5),
    }
    run(untouched(learner), cases, "singular values say how sure the data are; a rotation has no use for them")


def check_thin(learner: Callable[[Tensor, float], Tensor]) -> None:
    """Exercise: `thin(features, strength)`, strength times the sum over words of the squared batch mean."""
    cases = {
        "for one word that both items use and two that one uses": _by_hand,
        "for the gradient of 6 items and 4 words": _gradient,
    }
    run(
        untouched(learner),
        cases,
        "a word costs by how common it is in the batch, so the penalty is a matter of batch size",
    )


def _turned(fn: Callable, noise: float) -> str | None:
    draw = torch.Generator().manual_seed(3)
    X, rest = torch.randn(2, 20, 4, generator=draw, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=draw, dtype=torch.float64))[0]
    Y = X @ turn + noise * rest
    U, _, Vt = torch.linalg.svd(X.T @ Y)
    got, identity = fn(X, Y), torch.eye(4).double()
    suspects = {
        "that is W transposed, which turns Y to X: decompose X.T @ Y, not Y.T @ X": (U @ Vt).T,
        "the factors are exchanged or one is not transposed": Vt @ U,
    }
    if hint := compare(got, U @ Vt, suspects):
        square = as_tensor(got).shape == (4, 4) if got is not None else False
        bent = square and not close(as_tensor(got).T @ as_tensor(got), identity, 1e-6)
        return "W.T @ W is not the identity, so this is no rotation: that looks like least squares" if bent else hint
    return None


def _by_hand(fn: Callable) -> str | None:
    features = torch.tensor([[1.0, 2.0, 0.0], [1.0, 0.0, 2.0]]).double()
    suspects = {
        "that is the mean of the squares: take the mean over the batch first, then square it": 0.5 * 5,
        "the items are summed: the square of the mean over the batch is meant": 0.5 * 12,
        "the strength is missing": 3.0,
        "the words are averaged: sum over them": 0.5,
    }
    return MISSING if (got := fn(features, 0.5)) is None else compare(got, torch.tensor(1.5), suspects)


def _gradient(fn: Callable) -> str | None:
    features = torch.rand(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    (got,) = torch.autograd.grad(fn(features, 0.02), features)
    return compare(got, (2 * 0.02 * features.mean(0) / 6).detach().expand(6, 4))
