"""Checks of lab 1, pass attention around a ring: the merge of two parts, and the way home of a gradient.

Solution of the first: `minilib.teaching.partial_attention.merge`; its judge is a dense softmax over all keys.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minilib.teaching.checks.contract import MISSING, as_tensor, close, compare, run, untouched
from minilib.teaching.partial_attention import of_scores


def check_merge_parts(learner: Callable[[tuple, tuple], tuple]) -> None:
    """Exercise: `merge_parts(a, b)`, two parts `(o, lse)` over different keys into the part over all of them."""
    cases = {
        "for 5 queries over 6 and 3 keys": lambda fn: _parts(fn, 1.0),
        "for log-sum-exps that lie 800 apart": lambda fn: _parts(fn, 800.0),
        "for a row that saw no key in one part, and one in neither": _without_keys,
    }
    run(untouched(learner), cases, "a part needs its output and one number per row, so keys may arrive in any order")


def check_bring_home(learner: Callable[[Callable[[int, int], Tensor], int], list]) -> None:
    """Exercise: `bring_home(contribution, ranks)`, the summed gradient of each rank's block, on its own rank."""
    cases = {f"for {ranks} ranks": lambda fn, ranks=ranks: _home(fn, ranks) for ranks in (2, 5)}
    run(
        untouched(learner),
        cases,
        "keys make one ring step fewer than ranks, their gradients as many as there are ranks",
    )


def _parts(fn: Callable, gap: float) -> str | None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(5, 9, generator=generator, dtype=torch.float64)
    scores[::2, 6:] += gap
    scores[1::2, 6:] -= gap
    v = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    a, b = of_scores(scores[:, :6], v[:6]), of_scores(scores[:, 6:], v[6:])
    want = torch.softmax(scores, 1) @ v, torch.logsumexp(scores, 1)
    got = fn(a, b)
    pair = isinstance(got, tuple) and len(got) == 2
    if gap > 100 and pair and not all(torch.isfinite(as_tensor(part)).all() for part in got):
        return "the answer is not finite: exp of a gap of 800 overflows, so use logaddexp and sigmoid"
    swapped = torch.sigmoid(a[1] - b[1])[:, None]
    suspects = {
        "the outputs are averaged with equal weights: the part with the larger lse has more weight": (
            (a[0] + b[0]) / 2,
            want[1],
        ),
        "the outputs are added: they are normalised already, so weigh them": (a[0] + b[0], want[1]),
        "the two weights are exchanged": (a[0] - swapped * (a[0] - b[0]), want[1]),
        "the log-sum-exps are added: add the sums, not their logarithms": (want[0], a[1] + b[1]),
    }
    return compare(got, want, suspects)


def _without_keys(fn: Callable) -> str | None:
    none, some = torch.tensor([-torch.inf, -torch.inf]).double(), torch.tensor([-torch.inf, 0.5]).double()
    o = torch.tensor([[0.0, 0.0], [3.0, 4.0]]).double()
    for got in (fn((0 * o, none), (o, some)), fn((o, some), (0 * o, none))):
        if isinstance(got, tuple) and any(torch.isnan(as_tensor(part)).any() for part in got):
            return "the answer is NaN: -inf minus -inf was computed, so ask first which part saw no key"
        if hint := compare(got, (o, some)):
            return hint
    return None


def _home(fn: Callable, ranks: int) -> str | None:
    pieces = torch.randn(ranks, ranks, 3, generator=torch.Generator().manual_seed(ranks), dtype=torch.float64)
    got = fn(lambda rank, owner: pieces[rank, owner].clone(), ranks)
    if got is None:
        return MISSING
    if not isinstance(got, list | tuple) or len(got) != ranks:
        return f"the answer should be a list of {ranks} gradients, one per rank"
    want, got = pieces.sum(0), torch.stack([as_tensor(g) for g in got])
    if close(got, want):
        return None
    hints = {
        "every gradient is one ring step from home: whose gradient does rank r hold after ranks - 1 steps?": want.roll(
            -1, 0
        ),
        "the last contribution only is left: add to the gradient that travels, do not replace it": torch.stack(
            [pieces[(r - 1) % ranks, r] for r in range(ranks)]
        ),
        "each rank holds what it computed for others: a gradient belongs to the owner of the block": pieces.sum(1),
    }
    return compare(got, want, hints)
