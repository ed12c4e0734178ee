"""Checks of lab 11, keep, recompute, swap or skip: planning checkpoints, and updating inside the backward pass.

The judges are a table filled bottom-up over all stretches of the chain, and `torch.optim.SGD` after autograd.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minilib.teaching.checks.contract import compare, run


def check_checkpoint_cost(learner: Callable[[tuple, int], float]) -> None:
    """Exercise: `checkpoint_cost(costs, c)`, the least forward time with `c` stored inputs, the first one included."""
    cases = {
        "for one place": lambda fn: _cost(fn, (1, 5, 1, 2), 1),
        "for eight equal blocks and two places": lambda fn: _cost(fn, (1,) * 8, 2),
        "for a heavy block in the middle": lambda fn: _cost(fn, (1, 2, 9, 1, 3, 2, 4), 2),
        "for eight unequal blocks and three places": lambda fn: _cost(fn, (3, 1, 4, 1, 5, 9, 2, 6), 3),
    }
    run(learner, cases, "a stop is paid for while the part behind it runs, and is free again for the part before it")


def check_backward_and_update(learner: Callable[[list, Sequence[int], Tensor, float], None]) -> None:
    """Exercise: `backward_and_update(weights, uses, x, lr)`, one step of SGD, weights changed in place."""
    cases = {
        "for one layer": lambda fn: _update(fn, (0,)),
        "for three layers with a weight each": lambda fn: _update(fn, (0, 1, 2)),
        "for four layers of which two share a weight": lambda fn: _update(fn, (1, 0, 2, 0)),
        "for a weight that is used three times, and another learning rate": lambda fn: _update(fn, (0, 1, 0, 0), 0.25),
    }
    run(learner, cases, "a gradient is complete at the weight's earliest use, and only then may the weight move")


def _cost(fn: Callable, costs: tuple, c: int) -> str | None:
    want = _table(costs, c)
    suspects = {
        "the input of the first block takes a place as well: it is one of the c": _table(costs, c + 1),
        "the part before the stop has c places again: its stop has been freed": _table(costs, c, freed=False),
        "the run up to the stop is not counted": _table(costs, c, ahead=False),
        "the last block's input costs a run of the whole chain: leave the last block out": want + sum(costs),
    }
    return compare(fn(costs, c), want, {hint: answer for hint, answer in suspects.items() if answer != want})


def _table(costs: tuple, c: int, *, freed: bool = True, ahead: bool = True) -> int:
    """Least time of the whole chain, from all shorter stretches [a, e) and all numbers of places."""
    n, best = len(costs), {}
    for length in range(1, n + 1):
        for a in range(n - length + 1):
            e = a + length
            for places in range(1, c + 1):
                stops = range(a + 1, e) if places > 1 else range(e - 1, e) if length > 1 else ()
                before = places if freed else max(places - 1, 1)
                best[a, e, places] = min(
                    (ahead * sum(costs[a:j]) + best[j, e, max(places - 1, 1)] + best[a, j, before] for j in stops),
                    default=0,
                )
    return best[0, n, c]


def _update(fn: Callable, uses: tuple, lr: float = 0.1) -> str | None:
    draws = torch.randn(max(uses) + 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, start = draws[0], draws[1:]
    weights = [w.clone() for w in start]
    if fn(weights, uses, x.clone(), lr) is not None:
        return "the function returned something: it changes the entries of weights and returns nothing"
    want = [w.clone().requires_grad_() for w in start]
    out = x
    for u in uses:
        out = torch.tanh(out @ want[u])
    sgd = torch.optim.SGD(want, lr=lr)
    (out**2).sum().div(2).backward()
    sgd.step()
    got, want = torch.stack(weights), torch.stack(want).detach()
    suspects = {
        "nothing has changed: assign to weights[u], or subtract in place": start,
        "the step goes uphill: subtract the gradient": 2 * start - want,
        "the learning rate is missing": start + (want - start) / lr,
        "the loss is half the sum of squares: its gradient is x_L, without a factor 2": 2 * want - start,
        "what travels on went through the new weight: take the product before the update": _eager(
            start, uses, x, lr, True
        ),
        "a shared weight moved at its first use on the way back: wait until its last share": _eager(start, uses, x, lr),
    }
    return compare(got, want, {hint: answer for hint, answer in suspects.items() if not torch.equal(answer, want)})


def _eager(start: Tensor, uses: tuple, x: Tensor, lr: float, through_new: bool = False) -> Tensor:
    """The typical slips: an update at each use, and with `through_new` before the gradient travels on."""
    weights, xs = start.clone(), [x]
    for u in uses:
        xs.append(torch.tanh(xs[-1] @ weights[u]))
    up = xs[-1]
    for i in reversed(range(len(uses))):
        inner = up * (1 - xs[i + 1] ** 2)
        old = weights[uses[i]].clone()
        weights[uses[i]] -= lr * xs[i].T @ inner
        up = inner @ (weights[uses[i]] if through_new else old).T
    return weights
