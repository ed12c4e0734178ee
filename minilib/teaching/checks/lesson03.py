"""Checks of lesson 03, add logs of sums piece by piece: log-sum-exp, merge, running update, attention.

Solutions: `minilib.lse.value(minilib.lse.of_block(x))`, `minilib.lse.merge`, `minilib.lse.update`;
attention is the same fold with values attached.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minilib import lse
from minilib.teaching.checks.contract import LargestTensor, as_tensor, compare, not_finite, run

INF = math.inf
NAN_HINT = "the answer is NaN: -inf minus -inf has no value, so shift by a finite number where the maximum is -inf"


def check_stable_lse(learner: Callable[[Tensor], Tensor]) -> None:
    """Exercise: `stable_lse(x)`, the log-sum-exp of each row of `x (rows, n)`; returns `(rows,)`."""
    cases = {
        "for the rows (0, 0) and (log 3, 0)": _lse_by_hand,
        "for logits near 1,000 in fp32": _lse_large,
        "for one row near 0 and one near 1,000": _lse_far_apart,
        "for a row of -inf, the sum of nothing": _lse_of_nothing,
    }
    run(learner, cases, "the largest term becomes exp(0) = 1, so nothing overflows and the sum never vanishes")


def check_merge(learner: Callable[[tuple, tuple], tuple]) -> None:
    """Exercise: `merge(a, b)`, two states `(m, s)` of equal shape into the state of both sums."""
    cases = {
        "for the states (log 2, 1) and (log 4, 1), whose sums are 2 and 4": _merge_by_hand,
        "for random states, in both orders": _merge_random,
        "for maxima of -1,000 and 1,000": _merge_far_apart,
        "for the identity (-inf, 0)": _merge_identity,
    }
    run(learner, cases, "states merge in any order, so the sum may be cut anywhere")


def check_update(learner: Callable[[tuple, Tensor], tuple]) -> None:
    """Exercise: `update(state, block)`, the state of each row `(rows,)` after one more block `(rows, n)` of logits."""
    cases = {
        "for the state (0, 1) and the block (log 2, 0), whose exponentials are 1, 2 and 1": _update_by_hand,
        "for the first block, from (-inf, 0)": _update_from_nothing,
        "for 10 logits in blocks of 4, 4 and 2": _update_folded,
        "for logits of 1,000 after logits of 0": _update_large,
    }
    run(learner, cases, "two numbers per row remember everything about the logits that have gone by")


def check_attend(learner: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    """Exercise: `attend(logits, values, size)`, softmax(logits) @ values from blocks of `size` logits; `(d,)`."""
    cases = {
        "for the logits (log 3, 0) and the values 1 and 5": _attend_by_hand,
        "for 30 logits in blocks of 8": lambda fn: _attend(fn, 30, 8),
        "for 12 logits in blocks of 12": lambda fn: _attend(fn, 12, 12),
        "for logits near 1,000": _attend_large,
        "for 4,000 logits in blocks of 10": _attend_in_blocks,
    }
    run(learner, cases, "what is added up along with the exponentials is rescaled along with them")


def _lse_by_hand(fn: Callable) -> str | None:
    x = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]], dtype=torch.float64)
    want = torch.tensor([math.log(2), math.log(4)], dtype=torch.float64)
    suspects = {
        "the logarithm is missing": want.exp(),
        "the maximum was subtracted and never added back": want - x.amax(1),
        "that is a mean under the logarithm: the task asks for the sum": want - math.log(2),
        "you summed down the columns: reduce along the row": torch.logsumexp(x, 0),
    }
    return compare(fn(x), want, suspects)


def _lse_large(fn: Callable) -> str | None:
    x = torch.tensor([[1000.0, 999.0], [998.0, 1000.0]])
    got, want = fn(x), torch.logsumexp(x.double(), 1)
    suspects = {"the maximum was subtracted and never added back": want - 1000.0}
    overflow = "the answer is not finite: exp(1000) overflows, so subtract the row's maximum first"
    return not_finite(got, overflow) or compare(got, want, suspects, tol=1e-6)


def _lse_far_apart(fn: Callable) -> str | None:
    x = torch.tensor([[0.0, 1.0], [1000.0, 999.0]])
    got = fn(x)
    vanished = "the answer is not finite: take the maximum of each row, not of all rows"
    return not_finite(got, vanished) or compare(got, torch.logsumexp(x.double(), 1), tol=1e-6)


def _lse_of_nothing(fn: Callable) -> str | None:
    got = as_tensor(fn(torch.full((1, 3), -INF)))
    return NAN_HINT if got.isnan().any() else compare(got, torch.tensor([-INF]))


def _merge_by_hand(fn: Callable) -> str | None:
    got, want = _values(fn(_state(math.log(2), 1), _state(math.log(4), 1))), _state(math.log(4), 1.5)
    maxima = {
        "the maxima are added: keep the larger one": [math.log(8)],
        "the smaller maximum was kept: the larger one keeps every exponential below 1": [math.log(2)],
    }
    sums = {
        "the sums are added as they stand: rescale each to the new maximum first": [2.0],
        "the rescaling has the wrong sign: the smaller sum must shrink": [3.0],
    }
    return compare(got[0], want.m, maxima) or compare(got[1], want.s, sums)


def _merge_random(fn: Callable) -> str | None:
    generator = torch.Generator().manual_seed(1)
    a, b = (lse.of_block(5 * torch.randn(4, 6, generator=generator, dtype=torch.float64)) for _ in range(2))
    return compare(_values(fn(a, b)), lse.merge(a, b)) or compare(_values(fn(b, a)), lse.merge(a, b))


def _merge_far_apart(fn: Callable) -> str | None:
    low, high = _state(-1000, 3), _state(1000, 2)
    overflow = "exp(2000) overflowed: shift both by the larger maximum, whoever has it"
    both = (_values(fn(*pair)) for pair in ((low, high), (high, low)))
    return next(filter(None, (not_finite(got, overflow) or compare(got, high) for got in both)), None)


def _merge_identity(fn: Callable) -> str | None:
    nothing, something = _state(-INF, 0), _state(2, 3)
    got = _values(fn(nothing, nothing))
    if any(part.isnan().any() for part in got):
        return NAN_HINT
    return compare(got, nothing) or compare(_values(fn(nothing, something)), something)


def _update_by_hand(fn: Callable) -> str | None:
    block = torch.tensor([[math.log(2), 0.0]], dtype=torch.float64)
    suspects = {
        "the old sum keeps its old scale: multiply it by exp(old m - new m)": _state(math.log(2), 2.5),
        "the old sum is lost: add it, rescaled, to the sum of the block": _state(math.log(2), 1.5),
        "the block is not shifted by the new maximum": _state(math.log(2), 3.5),
    }
    return compare(_values(fn(_state(0, 1), block)), _state(math.log(2), 2), suspects)


def _update_from_nothing(fn: Callable) -> str | None:
    block = torch.tensor([[-3.0, -4.0], [-5.0, -3.5]], dtype=torch.float64)
    got = _values(fn(lse.empty((2,), dtype=torch.float64), block))
    if any(part.isnan().any() for part in got):
        return NAN_HINT
    phantom = lse.of_block(torch.cat([block, torch.zeros(2, 1, dtype=torch.float64)], 1))
    suspects = {
        "a phantom exp(0) joined the sum: start from -inf, not from 0": phantom,
        "the maximum stays at 0 or above: start from -inf, not from 0": lse.LSEState(phantom.m, phantom.s - 1),
    }
    return compare(got, lse.of_block(block), suspects)


def _update_folded(fn: Callable) -> str | None:
    x = 5 * torch.randn(3, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    state = lse.empty((3,), dtype=torch.float64)
    for block in x.split(4, dim=1):
        state = fn(state, block)
    return compare(lse.value(_values(state)), torch.logsumexp(x, 1))


def _update_large(fn: Callable) -> str | None:
    got = _values(fn(_state(0, 2), torch.tensor([[1000.0, 1000.0]], dtype=torch.float64)))
    return not_finite(got, "exp(1000) overflowed: shift by the new maximum") or compare(got, _state(1000, 2))


def _state(m: float, s: float) -> lse.LSEState:
    return lse.LSEState(*(torch.tensor([float(x)], dtype=torch.float64) for x in (m, s)))


def _values(state: tuple) -> lse.LSEState:
    if not isinstance(state, tuple | list) or len(state) != 2:
        raise TypeError(f"a state (m, s) was expected, not {type(state).__name__}")
    return lse.LSEState(*map(as_tensor, state))


def _attend_by_hand(fn: Callable) -> str | None:
    logits, values = torch.tensor([3.0, 1.0]).double().log(), torch.tensor([[1.0], [5.0]]).double()
    suspects = {
        "the weighted sum is not divided by the sum of the exponentials": [8.0 / 3],
        "that is the plain mean of the values: weigh each by its exponential": [3.0],
        "the old values keep their old scale: rescale them with the sum": [2.0 / (4 / 3)],
    }
    return compare(fn(logits, values, 1), torch.tensor([2.0]).double(), suspects)


def _attend(fn: Callable, count: int, size: int) -> str | None:
    generator = torch.Generator().manual_seed(count)
    logits, values = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((count,), (count, 4)))
    logits = logits.sort().values * 5  # the maximum rises with every block
    want, weights = torch.softmax(logits, 0) @ values, torch.exp(logits - logits.max())
    unscaled = sum(torch.exp(x - x.max()) @ v for x, v in zip(logits.split(size), values.split(size)))
    last = (count - 1) // size * size
    suspects = {
        "the values of earlier blocks keep their old scale: multiply them by exp(old m - new m)": unscaled
        / weights.sum(),
        "only the last block's values are left": weights[last:] @ values[last:] / weights.sum(),
        "the weighted sum is not divided by the sum of the exponentials": weights @ values,
        "each block is a softmax of its own: divide once, at the end": sum(
            torch.softmax(x, 0) @ v for x, v in zip(logits.split(size), values.split(size))
        ),
    }
    return compare(fn(logits, values, size), want, suspects)


def _attend_large(fn: Callable) -> str | None:
    logits, values = torch.tensor([999.0, 1000.0, 1001.0]).double(), torch.arange(3.0).double()[:, None]
    got = fn(logits, values, 2)
    overflow = "the answer is not finite: shift by the running maximum before each exponential"
    return not_finite(got, overflow) or compare(got, torch.softmax(logits, 0) @ values)


def _attend_in_blocks(fn: Callable) -> str | None:
    logits, values = torch.zeros(4000).double(), torch.ones(4000, 2).double()
    with LargestTensor() as largest:
        fn(logits, values, 10)
    if largest.numel < 4000:
        return None
    return f"a tensor of {largest.numel:,} numbers was made: hold one block of 10 at a time"
