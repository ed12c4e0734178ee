"""Checks of lesson 03, add logs of sums piece by piece: the stable log-sum-exp, the merge and the running update.

Solutions: `minilib.lse.value(minilib.lse.of_block(x))`, `minilib.lse.merge`, `minilib.lse.update`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minilib import lse
from minilib.teaching.checks.contract import as_tensor, compare, run

INF = math.inf


def check_stable_lse(learner: Callable[[Tensor], Tensor]) -> None:
    """Exercise: `stable_lse(x)`, the log-sum-exp of each row of `x (rows, n)`; returns `(rows,)`."""

    def by_hand(fn):
        """For the rows (0, 0) and (log 3, 0)"""
        x = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]], dtype=torch.float64)
        want = torch.tensor([math.log(2), math.log(4)], dtype=torch.float64)
        return compare("For the rows (0, 0) and (log 3, 0)", fn(x), want, {
            "the logarithm is missing": want.exp(),
            "the maximum was subtracted and never added back": want - x.amax(1),
            "that is a mean under the logarithm: the task asks for the sum": want - math.log(2),
            "you summed down the columns: reduce along the row": torch.logsumexp(x, 0),
        })  # fmt: skip

    def random(fn):
        """For random rows"""
        x = 5 * torch.randn(4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return compare("For random rows", fn(x), torch.logsumexp(x, 1), {
            "the maximum was subtracted and never added back": torch.logsumexp(x, 1) - x.amax(1),
        })  # fmt: skip

    def large(fn):
        """For logits near 1,000 in fp32"""
        x = torch.tensor([[1000.0, 999.0], [998.0, 1000.0]])
        if not torch.isfinite(as_tensor(fn(x))).all():
            return "For logits near 1,000 in fp32, the answer is not finite: exp(1000) overflows, so subtract the row's maximum first."
        return compare("For logits near 1,000 in fp32", fn(x), torch.logsumexp(x.double(), 1), tol=1e-6)

    def far_apart(fn):
        """For one row near 0 and one near 1,000"""
        x = torch.tensor([[0.0, 1.0], [1000.0, 999.0]])
        if not torch.isfinite(as_tensor(fn(x))).all():
            return "For one row near 0 and one near 1,000, the answer is not finite: take the maximum of each row, not of all rows."
        return compare("For one row near 0 and one near 1,000", fn(x), torch.logsumexp(x.double(), 1), tol=1e-6)

    def nothing(fn):
        """For a row of -inf"""
        got = as_tensor(fn(torch.full((1, 3), -INF)))
        if got.isnan().any():
            return (
                "For a row of -inf, the answer is NaN: -inf minus -inf has no value, so shift by a finite number there."
            )
        return compare("For a row of -inf, the sum of nothing", got, torch.tensor([-INF]))

    insight = "the largest term becomes exp(0) = 1, so nothing overflows and the sum never vanishes."
    run(learner, [by_hand, random, large, far_apart, nothing], insight)


def check_merge(learner: Callable[[tuple, tuple], tuple]) -> None:
    """Exercise: `merge(a, b)`, two pairs `(m, s)` of equal shape into the pair of both sums."""

    def by_hand(fn):
        """For the pairs (log 2, 1) and (log 4, 1)"""
        where = "For the pairs (log 2, 1) and (log 4, 1), whose sums are 2 and 4"
        a, b = _pair([math.log(2)], [1.0]), _pair([math.log(4)], [1.0])
        got, want = _values(fn(a, b)), _pair([math.log(4)], [1.5])
        return compare(f"{where}, m", got[0], want.m, {
            "the maxima are added: keep the larger one": [math.log(8)],
            "the smaller maximum was kept: the larger one keeps every exponential below 1": [math.log(2)],
        }) or compare(where, got, want, {
            "the sums are added as they stand: rescale each to the new maximum first": _pair([math.log(4)], [2.0]),
            "the rescaling has the wrong sign: the smaller pair must shrink": _pair([math.log(4)], [3.0]),
        })  # fmt: skip

    def random(fn):
        """For random pairs, in both orders"""
        generator = torch.Generator().manual_seed(1)
        a, b = (lse.of_block(5 * torch.randn(4, 6, generator=generator, dtype=torch.float64)) for _ in range(2))
        return compare("For random pairs", _values(fn(a, b)), lse.merge(a, b)) or compare(
            "For the same pairs in the other order", _values(fn(b, a)), lse.merge(a, b)
        )

    def far_apart(fn):
        """For maxima of 1,000 and -1,000"""
        a, b = _pair([1000.0], [2.0]), _pair([-1000.0], [3.0])
        got = _values(fn(b, a))
        if not all(torch.isfinite(part).all() for part in got):
            return "For maxima of -1,000 and 1,000, exp(2000) overflowed: shift both by the larger maximum, whoever has it."
        return compare("For maxima of -1,000 and 1,000", got, a)

    def identity(fn):
        """For the identity (-inf, 0)"""
        nothing = _pair([-INF], [0.0])
        got = _values(fn(nothing, nothing))
        if any(part.isnan().any() for part in got):
            return "For two identities (-inf, 0), the answer is NaN: -inf minus -inf has no value, so shift by a finite number there."
        return compare("For two identities", got, nothing) or compare(
            "For the identity and (2, 3)", _values(fn(nothing, _pair([2.0], [3.0]))), _pair([2.0], [3.0])
        )

    run(learner, [by_hand, random, far_apart, identity], "pairs merge in any order, so the sum may be cut anywhere.")


def check_update(learner: Callable[[tuple, Tensor], tuple]) -> None:
    """Exercise: `update(pair, block)`, the pair of each row `(rows,)` after one more block `(rows, n)` of logits."""

    def by_hand(fn):
        """For the pair (0, 1) and the block (log 2, 0)"""
        pair, block = _pair([0.0], [1.0]), torch.tensor([[math.log(2), 0.0]], dtype=torch.float64)
        return compare("For the pair (0, 1) and the block (log 2, 0), 1 + 2 + 1 in all", _values(fn(pair, block)), _pair([math.log(2)], [2.0]), {
            "the old sum keeps its old scale: multiply it by exp(old maximum - new maximum)": _pair([math.log(2)], [2.5]),
            "the old sum is lost: add it, rescaled, to the sum of the block": _pair([math.log(2)], [1.5]),
            "the block is not shifted by the maximum": _pair([math.log(2)], [3.5]),
        })  # fmt: skip

    def from_nothing(fn):
        """For the first block, from (-inf, 0)"""
        block = torch.tensor([[-3.0, -4.0], [-5.0, -3.5]], dtype=torch.float64)
        got = _values(fn(lse.empty((2,), dtype=torch.float64), block))
        if any(part.isnan().any() for part in got):
            return "For the first block, from (-inf, 0), the answer is NaN: shift by a finite number when the maximum is -inf."
        with_zero = lse.of_block(torch.cat([block, torch.zeros(2, 1, dtype=torch.float64)], 1))
        hint = "a phantom exp(0) joined the sum: the running maximum starts at -inf, not at 0"
        return compare("For the first block, from (-inf, 0)", got, lse.of_block(block), {
            hint: with_zero, f"{hint} (and the sum at 0)": (with_zero.m, with_zero.s - 1),
        })  # fmt: skip

    def folded(fn):
        """For 10 logits in blocks of 4, 4 and 2"""
        x = 5 * torch.randn(3, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        pair = lse.empty((3,), dtype=torch.float64)
        for block in x.split(4, dim=1):
            pair = fn(pair, block)
        return compare("For 10 logits in blocks of 4, 4 and 2", lse.value(_values(pair)), torch.logsumexp(x, 1))

    def large(fn):
        """For logits of 1,000 after logits of 0"""
        pair = _values(fn(_pair([0.0], [2.0]), torch.tensor([[1000.0, 1000.0]], dtype=torch.float64)))
        return compare("For logits of 1,000 after logits of 0", pair, _pair([1000.0], [2.0]))

    insight = "two numbers per row remember everything about the logits that have gone by."
    run(learner, [by_hand, from_nothing, folded, large], insight)


def _pair(m: list[float], s: list[float]) -> lse.Pair:
    return lse.Pair(torch.tensor(m, dtype=torch.float64), torch.tensor(s, dtype=torch.float64))


def _values(pair: tuple) -> tuple:
    return lse.Pair(*map(as_tensor, pair)) if isinstance(pair, tuple | list) and len(pair) == 2 else pair
