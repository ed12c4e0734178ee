"""Checks of lab 4, find where length breaks a model: squeezed rotary positions, and how far an answer moves.

The judges are a sum over complex waves of the distance between two positions, and one loop over questions and tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minilib.teaching.checks.contract import compare, run, untouched


def check_stretched_scores(learner: Callable[[Tensor, Tensor, Tensor, int, int], Tensor]) -> None:
    """Exercise: `stretched_scores(q, k, theta, window, target)`, scores at interpolated positions."""
    cases = {
        "for a window that stays as it is": lambda fn: _scores(fn, 12, 12),
        "for a text of three windows": lambda fn: _scores(fn, 4, 12),
        "for a text of one window and a half": lambda fn: _scores(fn, 8, 12),
        "for a text that is shorter than the target": lambda fn: _scores(fn, 4, 20, n=12),
    }
    run(untouched(learner), cases, "no distance is larger than those of the trained window")


def check_answer_moves(learner: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Exercise: `answer_moves(before, after, answer)`, the mean size of a change in log-probability."""
    cases = {
        "for one question with one token": lambda fn: _moves(fn, 1, 1),
        "for one question with four tokens": lambda fn: _moves(fn, 1, 4),
        "for twenty questions": lambda fn: _moves(fn, 20, 4),
    }
    run(untouched(learner), cases, "what must matter and moves nothing was not read")


def _scores(fn: Callable, window: int, target: int, n: int = 12) -> str | None:
    generator = torch.Generator().manual_seed(window)
    q, k = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    theta = 100.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    factor = target / window
    slower = theta * factor ** (-torch.arange(4, dtype=torch.float64) / 4)  # a base that is factor times larger
    suspects = {
        "the positions grow: multiply by window / target, not by target / window": _turned(q, k, theta, factor, factor),
        "the base is scaled, so that fast pairs stay fast: divide every angle alike": _turned(q, k, slower, 1, 1),
        "the keys are forgotten: squeeze their positions as well": _turned(q, k, theta, 1 / factor, 1),
        "the queries are forgotten: squeeze their positions as well": _turned(q, k, theta, 1, 1 / factor),
        "nothing is squeezed": _turned(q, k, theta, 1, 1),
        "the factor is that of the text's length: it is target / window, whatever the text": _turned(
            q, k, theta, window / n, window / n
        ),
    }
    want = _turned(q, k, theta, 1 / factor, 1 / factor)
    different = {hint: answer for hint, answer in suspects.items() if not torch.allclose(answer, want)}
    return compare(fn(q, k, theta, window, target), want, different, tol=1e-5)  # positions may be single precision


def _turned(q: Tensor, k: Tensor, theta: Tensor, of_q: float, of_k: float) -> Tensor:
    """Re sum_j q_j conj(k_j) e^(i theta_j (p_q - p_k)), with queries and keys at positions scaled by their factors."""
    q, k = (torch.view_as_complex(x.unflatten(-1, (-1, 2))) for x in (q, k))
    at = torch.arange(len(q), dtype=torch.float64)
    distance = of_q * at[:, None] - of_k * at  # (n, n)
    waves = torch.polar(torch.ones(()).double(), distance[..., None] * theta)  # (n, n, d / 2)
    return (q[:, None] * k.conj() * waves).real.sum(-1)


def _moves(fn: Callable, questions: int, tokens: int) -> str | None:
    generator = torch.Generator().manual_seed(questions + tokens)
    before, after = torch.randn(2, questions, tokens, 7, generator=generator, dtype=torch.float64)
    answer = torch.randint(7, (questions, tokens), generator=generator)
    moved = torch.zeros(questions, tokens, dtype=torch.float64)
    raw = moved.clone()
    for i in range(questions):
        for t in range(tokens):
            a, b, own = before[i, t], after[i, t], answer[i, t]
            raw[i, t] = a[own] - b[own]
            moved[i, t] = (a.exp()[own] / a.exp().sum()).log() - (b.exp()[own] / b.exp().sum()).log()
    want = moved.sum(1).abs().mean()
    suspects = {
        "logits are compared, not log-probabilities: normalise over V first": raw.sum(1).abs().mean(),
        "moves up and down cancel: take the size before the mean over the questions": -moved.sum(1).mean(),
        "moves up and down cancel: take the size, then the mean over the questions": moved.sum(1).mean(),
        "the sizes of single tokens are added: sum an answer's tokens first": moved.abs().sum(1).mean(),
        "the mean over an answer's tokens is taken: its log-probability is their sum": want / tokens,
        "the questions are summed: take their mean": want * questions,
    }
    different = {hint: answer for hint, answer in suspects.items() if not torch.allclose(answer, want)}
    return compare(fn(before, after, answer), want, different)
