"""Checks of lab 6, rank answers, then doubt the ranker: one term of PRO's loss, and a baseline made of other samples.

The judges are `pro_loss` of the library, as the difference of two rankings, and the mean of the other rewards, one by
one.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minilib.losses.preference import pro_loss
from minilib.teaching.checks.contract import compare, run, untouched


def check_pro_term(learner: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    """Exercise: `pro_term(scores, rewards, k)`, the softmax of answer k against all that have a lower reward."""
    even, uneven = _double([-1.0, -1.5, -3.0, -2.0], [3.0, 2.0, 1.0, 0.0]), [4.0, 3.5, 1.0, 0.5]
    cases = {
        "for four answers with rewards one apart": lambda fn: _term(fn, *even, 0),
        "for uneven gaps": lambda fn: _term(fn, *_double([-1.0, -1.5, -3.0, -2.0], uneven), 0),
        "for the second answer": lambda fn: _term(fn, *_double([-1.0, -1.5, -3.0, -2.0], uneven), 1),
        "for an answer with an equal one below it": lambda fn: _term(
            fn, *_double([-1.0, -0.5, -2.0, -3.0], [2.0, 2.0, 1.0, 0.0]), 0
        ),
    }
    run(
        untouched(learner),
        cases,
        "the gap multiplies every score, the best answer's own as well, and only the worse are rivals",
    )


def check_advantages(learner: Callable[[Tensor], Tensor]) -> None:
    """Exercise: `advantages(rewards)`, each reward minus the mean of the others, `(k,)`."""
    cases = {
        "for rewards 1, 2 and 6": lambda fn: _advantages(fn, _double([1.0, 2.0, 6.0])[0]),
        "for eight rewards": lambda fn: _advantages(fn, _double([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0])[0]),
    }
    run(untouched(learner), cases, "a baseline may be anything that the sample itself cannot move")


def _term(fn: Callable, scores: Tensor, rewards: Tensor, k: int) -> str | None:
    def chain(rows):
        return pro_loss(scores[rows][None], rewards[rows][None]) if len(rows) > 1 else 0.0

    def term(start=k, own=None, skip=0):
        gaps = rewards[k] - rewards[start:]
        largest = gaps.max()
        gaps[k - start] = largest if own is None else own
        return torch.logsumexp((gaps * scores[start:])[skip:], 0) - gaps[k - start] * scores[k]

    below = [i for i in range(len(scores)) if rewards[i] < rewards[k]]
    suspects = {
        "the answer's own score is not multiplied by the largest gap": term(own=1.0),
        "the gap of answer k is left at 0: its score takes the largest gap": term(own=0.0),
        "a tie is kept in: its gap is 0, and exp(0) = 1 stays in the sum": term(),
        "all answers are summed: those above k are no rivals, start at k": term(start=0),
        "answer k itself is missing in the sum": term(skip=1),
    }
    return compare(fn(scores.clone(), rewards.clone(), k), chain([k, *below]) - chain(below), suspects)


def _advantages(fn: Callable, rewards: Tensor) -> str | None:
    others = [torch.cat([rewards[:i], rewards[i + 1 :]]).mean() for i in range(len(rewards))]
    middle = rewards - rewards.mean()
    suspects = {
        "the sample is its own baseline: what is the expectation then?": torch.zeros_like(rewards),
        "the sample's own reward is in the mean: it scales the gradient by (k - 1) / k": middle,
        "the spread is divided out as well: only the baseline is asked for": middle / rewards.std(),
        "the baseline is added: subtract it": rewards + torch.stack(others),
    }
    return compare(fn(rewards.clone()), rewards - torch.stack(others), suspects)


def _double(*values) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(value, dtype=torch.float64) for value in values)
