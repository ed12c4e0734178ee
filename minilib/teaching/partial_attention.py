"""Attention over some of the keys, and the merge of such parts: what labs about fewer or travelling keys share.

A part is `(o, lse)`: the normalised output over its keys, and the logarithm of the sum of their exponentials. Two parts
over disjoint sets of keys merge into the part over both:

    lse = logaddexp(lse_a, lse_b),      o = o_a - sigmoid(lse_b - lse_a) (o_a - o_b)

with the identity (0, -inf), the part without keys. It is the merge of `minilib.lse` with a weighted mean attached.
Taught in notebooks/labs/01_pass_attention_around_a_ring.ipynb.
"""

import torch
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention of `q (n, d)` over `k, v (m, d)` where `mask (n, m)` is true: `o (n, d)` and `lse (n,)`."""
    return of_scores(q @ k.T / q.shape[-1] ** 0.5, v, mask)


def of_scores(scores: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The same from scores `(n, m)` that are there already; a row without keys gives the identity."""
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    lse = torch.logsumexp(scores, -1)  # (n,)
    safe = torch.where(lse.isinf(), torch.zeros_like(lse), lse)  # -inf - -inf would be NaN
    return torch.exp(scores - safe[:, None]) @ v, lse


def merge(part: tuple[Tensor, Tensor], *others: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Parts over disjoint sets of keys into one."""
    o, lse = part
    for o_b, lse_b in others:
        gap = torch.where(lse_b.isneginf(), lse_b, lse_b - lse)  # no key in b: its weight is 0, not NaN
        o, lse = o - torch.sigmoid(gap)[:, None] * (o - o_b), torch.logaddexp(lse, lse_b)
    return o, lse
