"""Checks of lab 3, serve a long context: which cache positions a head keeps, and two cache entries merged into one.

The judges are a plain loop over heads and neighbours, and attention over the unmerged cache.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minilib.teaching.checks.contract import as_tensor, close, compare, run, untouched


def check_keep_neighbours(learner: Callable[[Tensor, int, int], Tensor]) -> None:
    """Exercise: `keep_neighbours(scores, budget, kernel)`, scores `(heads, W, n)` to positions `(heads, budget)`."""
    cases = {
        "for one head with a hit at 20": lambda fn: _keep(fn, heads=1, hit=20),
        "for three heads": lambda fn: _keep(fn, heads=3, hit=20),
        "for a window whose first query would look ahead": lambda fn: _keep(fn, heads=2, hit=12, ahead=True),
        "for a hit next to the window": lambda fn: _keep(fn, heads=1, hit=30, loud=True),
        "for kernel 3 and a budget of 9": lambda fn: _keep(fn, heads=2, hit=20, budget=9, kernel=3),
    }
    run(
        untouched(learner),
        cases,
        "pooling comes before the choice, so the neighbours of a hit outlive weak hits elsewhere",
    )


def check_merge_key(learner: Callable[[tuple, tuple], tuple]) -> None:
    """Exercise: `merge_key(first, second)`, entries `(key, value, log count)`."""
    cases = {
        "for one key that was put in twice": lambda fn: _merge(fn, 0.0, 0.0),
        "for an entry of nine tokens and one of a single token": lambda fn: _merge(fn, 9.0, 1.0),
        "for an entry of two tokens and one of five": lambda fn: _merge(fn, 2.0, 5.0),
    }
    run(
        untouched(learner), cases, "one key that stands for c tokens needs log c in its logit: the fold of log-sum-exps"
    )


def _keep(
    fn: Callable, heads: int, hit: int, ahead: bool = False, loud: bool = False, budget: int = 14, kernel: int = 5
) -> str | None:
    w, n = 4, 40
    scores = torch.rand(heads, w, n, generator=torch.Generator().manual_seed(hit), dtype=torch.float64)
    scores[:, :, hit] += 6
    if ahead:  # masked, this query votes for position 5; unmasked it spends its vote on the future
        scores[:, 0, -1], scores[:, 0, 5] = 60, 30
    if loud:
        scores[:, :, n - w], scores[:, :, 3] = 9, 5
    want = _choose(scores, budget, kernel)
    suspects = {
        "the pooling comes after the choice: neighbours of a hit must be chosen with it": _choose(scores, budget, 1),
        "the window is pooled too: its votes leak into the positions before it": _choose(scores, budget, kernel, 1),
        "a query votes for keys behind it: mask the future inside the window": _choose(scores, budget, kernel, 2),
        "the window is missing: its positions are always kept": want[:, : budget - w],
        "the positions are not sorted": _choose(scores, budget, kernel, 3),
    }
    got = fn(scores.clone(), budget, kernel)
    for hint, answer in suspects.items():  # before `compare`, which names a wrong shape first
        if isinstance(got, Tensor) and not close(answer, want) and close(got, answer):
            return hint
    return compare(got, want)


def _choose(scores: Tensor, budget: int, kernel: int, slip: int = 0) -> Tensor:
    """The answer, or with a `slip` what one mistake gives: 1 pools the window, 2 sees the future, 3 does not sort."""
    _, w, n = scores.shape
    rows = []
    for head in scores:
        votes = torch.zeros(n, dtype=torch.float64)
        for place, row in enumerate(head):
            last = n if slip == 2 else n - w + place + 1
            votes[:last] += row[:last].softmax(0)
        votes, reach = votes if slip == 1 else votes[: n - w], kernel // 2
        pooled = torch.stack([votes[max(i - reach, 0) : i + reach + 1].max() for i in range(n - w)])
        kept = [*pooled.topk(budget - w).indices.tolist(), *range(n - w, n)]
        rows.append(kept if slip == 3 else sorted(kept))
    return torch.tensor(rows)


def _merge(fn: Callable, first: float, second: float) -> str | None:
    draw = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    same = not first
    k1, k2, v1, v2 = draw[0], draw[0] if same else draw[1], draw[2], draw[3]
    c1, c2 = (1.0, 1.0) if same else (first, second)
    entries = [(k, v, torch.tensor(c, dtype=torch.float64).log()) for k, v, c in ((k1, v1, c1), (k2, v2, c2))]
    key, value = ((c1 * a + c2 * b) / (c1 + c2) for a, b in ((k1, k2), (v1, v2)))
    bias, zero = as_tensor(c1 + c2).log(), as_tensor(0.0)
    suspects = {
        "log 2 is forgotten: put the same key in twice and compare with the full softmax": (key, value, zero),
        "the biases are added: counts are added, so it is logaddexp": (key, value, entries[0][2] + entries[1][2]),
        "the bias is the count itself: take its logarithm": (key, value, as_tensor(c1 + c2)),
        "keys and values are averaged as if both stood for one token": ((k1 + k2) / 2, (v1 + v2) / 2, bias),
        "keys and values are summed: average them by their counts": (c1 * k1 + c2 * k2, c1 * v1 + c2 * v2, bias),
    }
    want = (key, value, bias)
    return compare(fn(*entries), want, {hint: answer for hint, answer in suspects.items() if not close(answer, want)})
