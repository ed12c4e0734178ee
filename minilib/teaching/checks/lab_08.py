"""Checks of lab 8, filter, repeat or recycle the data: the worth of repeats, and weights that replace sampling.

The judges are one cumulative sum in the logarithm, and shares taken with a softmax of log sizes.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minilib.teaching.checks.contract import MISSING, compare, run, untouched


def check_repeat_errors(learner: Callable[[float, list, int, float, float], Sequence[float]]) -> None:
    """Exercise: `repeat_errors(first, exponents, passes, tau, floor)`, the errors after 1 to `passes` passes."""
    cases = {
        "for one pass": lambda fn: _errors(fn, 0.8, [-0.3], 1, 2.0, 0.1),
        "for one pool without a floor": lambda fn: _errors(fn, 0.9, [-0.2], 6, 2.0, 0.0),
        "for one pool with a floor": lambda fn: _errors(fn, 0.9, [-0.25], 5, 3.0, 0.4),
        "for a mixture of three pools": lambda fn: _errors(fn, 1.2, [-0.3, -0.2, -0.05], 7, 1.5, 0.3),
    }
    run(untouched(learner), cases, "a repeat shrinks what lies above the floor, each time by a smaller exponent")


def check_loss_weights(learner: Callable[[Tensor, float, float], Tensor]) -> None:
    """Exercise: `loss_weights(sizes, drawn, wanted)`, what makes draws at one temperature count as at another."""
    cases = {
        "for two languages drawn as they come": lambda fn: _weights(fn, (1000, 50), 1.0, 5.0),
        "for languages drawn at temperature 2": lambda fn: _weights(fn, (900, 400, 30), 2.0, 4.0),
        "for equal temperatures": lambda fn: _weights(fn, (70, 20, 10), 3.0, 3.0),
    }
    run(untouched(learner), cases, "wanted share over drawn share: equal gradients on average, and a mean weight of 1")


def _errors(fn: Callable, first: float, exponents: list, passes: int, tau: float, floor: float) -> str | None:
    got = fn(first, list(exponents), passes, tau, floor)
    if got is None:
        return MISSING
    want = _law(first, exponents, passes, tau, floor)
    suspects = {
        "the floor shrinks too: take it away before the first repeat and add it at the end": _law(
            first, exponents, passes, tau, 0.0
        ),
        "the exponent grows from repeat to repeat: it halves every tau of them": _law(
            first, exponents, passes, tau, floor, base=2.0
        ),
        "tau is not multiplied by the number of pools: a mixture is worn out later": _law(
            first, exponents, passes, tau / len(exponents), floor
        ),
        "the first repeat counts as fresh: it is repeat 1, and decayed once": _law(
            first, exponents, passes, tau, floor, late=1
        ),
        "the exponents are added up: a mixture has their mean": _law(
            first, [b * len(exponents) for b in exponents], passes, tau, floor
        ),
    }
    return compare(torch.as_tensor(got, dtype=torch.float64), want, _different(suspects, want))


def _law(
    first: float, exponents: list, passes: int, tau: float, floor: float, *, base: float = 0.5, late: int = 0
) -> Tensor:
    """The errors at once, (passes,): the logarithm above the floor is a cumulative sum over the repeats."""
    repeats = torch.arange(1, passes, dtype=torch.float64)
    exponent = sum(exponents) / len(exponents) * base ** ((repeats - late) / (tau * len(exponents)))
    falls = torch.cat([torch.zeros(1, dtype=torch.float64), exponent * torch.log1p(1 / repeats)])
    return floor + (first - floor) * falls.cumsum(0).exp()


def _weights(fn: Callable, sizes: tuple, drawn: float, wanted: float) -> str | None:
    tensor = torch.tensor(sizes, dtype=torch.float64)
    here, there = _shares(tensor, drawn), _shares(tensor, wanted)
    want = there / here
    suspects = {
        "they are turned round: compare the mean of the drawn, weighed gradients with the wanted mean": here / there,
        "the share is n^t: the temperature divides, n^(1/t)": _shares(tensor, 1 / wanted) / _shares(tensor, 1 / drawn),
        "the draws are taken for natural ones: divide by their shares at temperature drawn": there
        / (tensor / tensor.sum()),
        "this is the wanted share itself: the draws bring a share of their own, divide by it": there,
        "the shares do not sum to 1, so all weights are off by one factor": tensor ** (1 / wanted - 1 / drawn),
    }
    return compare(fn(tensor.clone(), drawn, wanted), want, _different(suspects, want))


def _shares(sizes: Tensor, temperature: float) -> Tensor:
    return torch.softmax(sizes.log() / temperature, 0)


def _different(suspects: dict, want: Tensor) -> dict:
    """The suspects that can be told from the right answer in this case."""
    return {hint: answer for hint, answer in suspects.items() if not torch.allclose(answer, want)}
