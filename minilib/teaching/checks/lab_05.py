"""Checks of lab 5, pack long and short together: the mean over all ranks' tokens, and the mask of packed rows.

The judges list every token, one after the other.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minilib.teaching.checks.contract import compare, run, untouched


def check_global_mean(learner: Callable[[list, list], Tensor]) -> None:
    """Exercise: `global_mean(losses, masks)`, lists of `(rows, width)`, to the mean over all tokens that count."""
    cases = {
        "for one rank with full rows": lambda fn: _mean(fn, [(2, 3, 3)]),
        "for one rank with padding": lambda fn: _mean(fn, [(3, 5, 2)]),
        "for two ranks of different size": lambda fn: _mean(fn, [(2, 6, 4), (5, 9, 1)]),
    }
    run(
        untouched(learner),
        cases,
        "one sum of losses, one sum of tokens, one division: who computed a token does not matter",
    )


def check_pack_mask(learner: Callable[[Tensor], Tensor]) -> None:
    """Exercise: `pack_mask(documents)`, document numbers `(b, L)` with -1 for padding, to who sees whom `(b, L, L)`."""
    cases = {
        "for the row 0, 0, 1, -1": lambda fn: _mask(fn, [[0, 0, 1, -1]]),
        "for two rows with other documents": lambda fn: _mask(fn, [[0, 0, 0, 1, 1, 2], [0, 1, 1, -1, -1, -1]]),
    }
    run(untouched(learner), cases, "a document in a pack is as alone as without one")


def _mean(fn: Callable, shapes: list) -> str | None:
    """Ranks of (rows, width, tokens in the first row; each further row one less, at least one)."""
    generator, losses, masks = torch.Generator().manual_seed(0), [], []
    for rows, width, first in shapes:
        counts = (
            torch.tensor([max(first - row, 1) for row in range(rows)]) if first < width else torch.full((rows,), width)
        )
        losses.append(torch.rand(rows, width, generator=generator, dtype=torch.float64) + 1)
        masks.append(torch.arange(width) < counts[:, None])
    real = [loss[mask] for loss, mask in zip(losses, masks)]
    rows = [row[seen].mean() for loss, mask in zip(losses, masks) for row, seen in zip(loss, mask)]
    want, every = torch.cat(real).mean(), sum(loss.numel() for loss in losses)
    suspects = {
        "it is a mean of rank means: a rank with few tokens counts too much": sum(r.mean() for r in real) / len(real),
        "it is a mean of sequence means: short sequences count too much": sum(rows) / len(rows),
        "the sum is divided by the padded length: count only what the masks say": torch.cat(real).sum() / every,
        "padding is in the sum: multiply by the masks": torch.cat([loss.flatten() for loss in losses]).mean(),
        "it is a sum: divide by the number of tokens": torch.cat(real).sum(),
    }
    return compare(fn([loss.clone() for loss in losses], masks), want, suspects)


def _mask(fn: Callable, rows: list) -> str | None:
    documents = torch.tensor(rows)

    def by(rule):
        sees = [[[rule(row, t, u) for u in range(len(row))] for t in range(len(row))] for row in rows]
        return torch.tensor(sees, dtype=torch.float64)

    suspects = {
        "it is only causal: swap two documents of a row, does a loss move?": by(lambda d, t, u: u <= t),
        "a document sees its own future: add the causal mask": by(
            lambda d, t, u: d[u] == d[t] and (d[t] >= 0 or u == t)
        ),
        "padding sees other padding: only itself": by(lambda d, t, u: d[u] == d[t] and u <= t),
        "a padding token sees nothing: its softmax would be empty": by(lambda d, t, u: 0 <= d[u] == d[t] and u <= t),
        "rows and columns are exchanged: the second axis looks": by(
            lambda d, t, u: d[u] == d[t] and ((d[t] >= 0 and u >= t) or u == t)
        ),
    }
    want = by(lambda d, t, u: d[u] == d[t] and ((d[t] >= 0 and u <= t) or u == t))
    got = fn(documents)
    if hint := compare(got, want, suspects):
        return hint
    return None if got.dtype == torch.bool else f"the mask holds {got.dtype} and should be boolean, for masked_fill"
