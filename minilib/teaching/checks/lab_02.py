"""Checks of lab 2, score fewer pairs: the far branch of a lambda-shaped mask, and the queries worth a full row.

The judge of the first is a dense softmax over capped distances, written with complex numbers.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minilib.teaching.checks.contract import close, compare, run, untouched
from minilib.teaching.rotary import speeds


def check_far_branch(learner: Callable[[Tensor, Tensor, Tensor, int, int], tuple]) -> None:
    """Exercise: `far_branch(q, k, v, window, n_global)`, `(o, lse)` of the global keys at `window` or farther."""
    cases = {
        "for 12 tokens, a window of 4 and 1 global key": lambda fn: _far(fn, 12, 4, 1),
        "for 30 tokens, a window of 8 and 3 global keys": lambda fn: _far(fn, 30, 8, 3),
    }
    run(
        untouched(learner),
        cases,
        "a key beyond the window is seen at the window's edge, a distance that training has shown",
    )


def check_choose_queries(learner: Callable[[Tensor, int], Tensor]) -> None:
    """Exercise: `choose_queries(scores, count)`, indices of the queries whose rows are farthest from flat."""
    cases = {
        "for a flat row of large scores and a peaked row of small ones": _flat_or_peaked,
        "for 40 rows, 10 of them peaked": _many_rows,
        "for a row with one large score and a row with eight": _one_or_eight,
    }
    run(
        untouched(learner),
        cases,
        "log-sum-exp minus mean measures how far a row is from even attention, whatever its level",
    )


def _far(fn: Callable, n: int, window: int, n_global: int) -> str | None:
    q, k, v = torch.randn(3, n, 8, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    i = torch.arange(n)
    gap = i[:, None] - i
    far = (gap >= window) & (i < n_global)
    twice = (gap >= 0) & (i < n_global)
    suspects = {
        "keys stand at their true distance: turn the query to position window, whatever its own": _part(
            q, k, v, gap, far
        ),
        "a global token is counted twice while it is still near: here it must be window or more back": _part(
            q, k, v, gap.clamp(max=window), twice
        ),
        "every query meets the globals at distance window, near ones too: leave out those less than window back": _part(
            q, k, v, torch.full_like(gap, window), twice
        ),
    }
    got, want = fn(q, k, v, window, n_global), _part(q, k, v, gap.clamp(max=window), far)
    late = {hint: tuple(part[window:] for part in parts) for hint, parts in suspects.items()}
    if hint := compare(tuple(part[window:] for part in got), tuple(part[window:] for part in want), late):
        return hint
    if compare(got, want):  # in the first rows, where no key is far
        named = (hint for hint, parts in suspects.items() if close(tuple(got), parts))
        return next(named, "a query without far keys has output 0 and log-sum-exp -inf")
    return None


def _part(q: Tensor, k: Tensor, v: Tensor, distance: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    pairs_q, pairs_k = (torch.view_as_complex(x.unflatten(1, (-1, 2))) for x in (q, k))
    turned = torch.polar(torch.ones(1).double(), distance[..., None] * speeds(q.shape[1]))  # (n, n, d / 2)
    scores = (pairs_q[:, None] * pairs_k.conj() * turned).real.sum(-1) / q.shape[1] ** 0.5
    scores = scores.masked_fill(~seen, -torch.inf)
    return torch.softmax(scores, 1).nan_to_num() @ v, torch.logsumexp(scores, 1)


def _flat_or_peaked(fn: Callable) -> str | None:
    scores = torch.tensor([[51.0, 50, 50, 51, 50, 50], [0.0, 0, 0, 0, 0, 9.0], [0.0] * 6]).double()
    suspects = {
        "the flat row of large scores won: subtract the row's mean, a constant must not change its rank": [0],
        "the flattest rows were chosen: the largest measure is the most peaked row": [2],
    }
    return compare(_sorted(fn(scores, 1)), [1], suspects)


def _many_rows(fn: Callable) -> str | None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(40, 30, generator=generator, dtype=torch.float64)
    peaked = torch.randperm(40, generator=generator)[:10]
    scores[peaked] *= 4
    scores += 10 * torch.randn(40, 1, generator=generator, dtype=torch.float64)
    measure = torch.logsumexp(scores, 1) - scores.mean(1)
    suspects = {
        "the ranks are those of the row's level: subtract the row's mean": _sorted(
            torch.logsumexp(scores, 1).topk(10)[1]
        ),
        "the flattest rows were chosen: take the largest measures": _sorted((-measure).topk(10)[1]),
    }
    return compare(_sorted(fn(scores, 10)), _sorted(measure.topk(10)[1]), suspects)


def _one_or_eight(fn: Callable) -> str | None:
    scores = torch.zeros(2, 20).double()
    scores[0, 4], scores[1, ::3], scores[1, 1] = 6.0, 9.0, 9.0
    suspects = {"the largest score minus the mean won, which is the sampled measure: the exact one is lse - mean": [0]}
    return compare(_sorted(fn(scores, 1)), [1], suspects)


def _sorted(indices: Tensor) -> Tensor | None:
    return indices if indices is None else torch.as_tensor(indices).sort()[0]
