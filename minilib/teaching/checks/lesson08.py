"""Checks of lesson 08, see long-context models fail: right answers, cells in reach, perplexity, and heads that copy.

Solutions: `contains` of `minilib.evals.answers`, `in_reach` of `minilib.teaching.plots.longcontext`, the buckets of
`minilib.evals.perplexity`, the copy score of `minilib.evals.retrieval_heads`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minilib.teaching.checks.contract import compare, run

WINDOW, QUESTION = 256, 10  # tokens
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
FLOAT = 1e-6  # the library answers these two in fp32


def check_needle_accuracy(learner: Callable[[Sequence[str], Sequence[str]], float]) -> None:
    """Exercise: `needle_accuracy(answers, golds)`, the share of answers that hold the gold words in one run."""
    cases = {
        "for one right answer of two": lambda fn: _accuracy(fn, ["amber", "silk"], ["amber", "salt"], [1, 0]),
        "for sentences around the word": _sentences,
        "for two words in one run": _runs,
        "for parts of words": _parts,
    }
    run(learner, cases, "an answer is right when the gold words stand in it in one run, whatever stands around them")


def check_cells_in_reach(learner: Callable[[Tensor, Tensor, int, int], Tensor]) -> None:
    """Exercise: `cells_in_reach(depths, lengths, question, window)`, booleans (depths, lengths)."""
    cases = {
        "for lengths 64 to 992": lambda fn: _reach(fn, DEPTHS, (64, 224, 448, 992)),
        "for a fact at the very beginning": lambda fn: _reach(fn, (0.0,), range(240, 256)),
        "for a fact in the middle": lambda fn: _reach(fn, (0.5,), range(484, 508, 2)),
        "for a question of 100 tokens": lambda fn: _reach(fn, DEPTHS, (100, 156, 157, 158, 300), question=100),
    }
    run(learner, cases, "the distance decides, not the length: a fact next to the question is in reach in any text")


def check_perplexity(learner: Callable[[Tensor, int], Tensor]) -> None:
    """Exercise: `perplexity(logps, bucket)`, logps (documents, positions), one perplexity for each bucket."""
    cases = {
        "for a die": lambda fn: _perplexity(fn, torch.full((2, 6), 1 / 6, dtype=torch.float64).log(), 3),
        "for 4 documents and 3 buckets": lambda fn: _perplexity(fn, _logps(12), 4),
        "for a last bucket that is not full": lambda fn: _perplexity(fn, _logps(11), 4),
    }
    run(learner, cases, "logarithms are averaged first and the exponential comes last, over all documents at once")


def check_copy_score(learner: Callable[[Tensor, Tensor, Tensor, Tensor], float]) -> None:
    """Exercise: `copy_score(looked, context, needle, answer)`, the share of distinct needle tokens that are copied."""
    looks = {
        "for one needle token that is copied": ([2], [7, 8, 5, 9], [2], [5]),
        "for one of two needle tokens": ([2, 0], [7, 8, 5, 9, 6], [2, 4], [5, 6]),
        "for a head that looks at another needle token": ([4, 4, 4], [7, 8, 5, 9, 6, 3], [2, 4, 5], [5, 6, 3]),
        "for the right token outside the needle": ([0, 4, 0], [5, 8, 5, 9, 6, 3], [2, 4, 5], [5, 6, 5]),
        "for a token that the answer says twice": ([2, 2], [7, 8, 5, 9, 6, 3], [2, 4, 5], [5, 5]),
        "for a token that the needle holds twice": ([1, 3], [7, 5, 6, 5], [1, 2, 3], [5, 6]),
    }
    cases = {where: lambda fn, case=case: _copies(fn, *case) for where, case in looks.items()}
    run(learner, cases, "a copy needs all three: looked into the needle, at the very token, which is the one to come")


def _accuracy(fn: Callable, answers: list[str], golds: list[str], right: list[int]) -> str | None:
    lower = [(answer.lower(), gold.lower()) for answer, gold in zip(answers, golds)]
    words = [(_words(answer), set(gold.split())) for answer, gold in lower]
    suspects = {
        "capital letters count as other letters: normalise both sides": [g in a for a, g in zip(answers, golds)],
        "a sentence around the word makes it wrong: look for the gold words in the answer": [a == g for a, g in lower],
        "a piece of a longer word counts as the word: compare whole words": [g in a for a, g in lower],
        "words in another order count: they must stand in one run": [g <= a for a, g in words],
        "one of several words suffices: all must stand in one run": [bool(g & a) for a, g in words],
    }
    suspects = {hint: sum(marks) / len(right) for hint, marks in suspects.items()}
    suspects["that is the number of right answers: divide by all of them"] = float(sum(right))
    return compare(fn(answers, golds), sum(right) / len(right), suspects)


def _sentences(fn: Callable) -> str | None:
    answers = ["The amber.", "AMBER!", "Lisbon keeps amber, I think", "", "silk"]
    return _accuracy(fn, answers, ["amber"] * 5, [1, 1, 1, 0, 0])


def _runs(fn: Callable) -> str | None:
    answers = ["amber and silk", "silk and amber", "Amber and silk.", "and then", "amber", "amber, salt and silk", "no"]
    return _accuracy(fn, answers, ["amber and silk"] * 7, [1, 0, 1, 0, 0, 0, 0])


def _parts(fn: Callable) -> str | None:
    answers, golds = ["ambergris", "rice", "price", "inked", "Ink"], ["amber", "rice", "rice", "ink", "ink"]
    return _accuracy(fn, answers, golds, [0, 1, 0, 0, 1])


def _words(text: str) -> set[str]:
    return set("".join(letter if letter.isalnum() else " " for letter in text).split())


def _reach(fn: Callable, depths: Sequence[float], lengths: Sequence[int], question: int = QUESTION) -> str | None:
    depth = torch.tensor(depths, dtype=torch.float64)
    length = torch.tensor(list(lengths), dtype=torch.float64)
    row, token = depth[:, None], depth[:, None] * (length - 4)  # (depths, 1), (depths, lengths)
    distance = length + question - 1 - token
    pointlike = length * (1 - row) + question - 1
    suspects = {
        "the text's whole length is compared: a fact late in a long text is near": length + question - 1 + 0 * row,
        "depth 0 and depth 1 are exchanged: 0 is the beginning, far from the question": question + 3 + token,
        "the question is left out: it stands between the text and the answer": length - 1 - token,
        "one distance too many: W tokens are W - 1 apart at most": distance - 1,
        "one distance is missing: W - 1 was seen in training": distance + 1,
        "the fact's own tokens are left out: depth 1 begins 4 tokens before the text's end": pointlike,
    }
    got = fn(depth, length, question, WINDOW)
    if isinstance(got, Tensor) and got.shape == distance.T.shape != distance.shape:
        return "rows and columns are exchanged: return (depths, lengths)"
    return compare(got, distance < WINDOW, {hint: wrong < WINDOW for hint, wrong in suspects.items()})


def _logps(positions: int) -> Tensor:
    return -4 * torch.rand(4, positions, dtype=torch.float64, generator=torch.Generator().manual_seed(positions))


def _perplexity(fn: Callable, logps: Tensor, bucket: int) -> str | None:
    parts = logps.split(bucket, dim=1)  # the last one may be shorter

    def of(measure: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack([measure(part) for part in parts])

    apart, full = of(lambda p: (-p).mean(1).exp().mean()), of(lambda p: (-p.sum() / (len(p) * bucket)).exp())
    suspects = {
        "the sign is missing: surprise is minus the log-probability": of(lambda p: p.mean().exp()),
        "exponentials are averaged: average the logarithms first": of(lambda p: (-p).exp().mean()),
        "perplexities of documents are averaged: put all logarithms into one mean": apart,
        "logarithms are added: take their mean": of(lambda p: (-p).sum().exp()),
        "that is the mean surprise: its exponential is the perplexity": of(lambda p: -p.mean()),
        "the base is 2 and the logarithms are natural: take exp": of(lambda p: 2 ** -p.mean()),
        "the last bucket is divided by a full one: it holds fewer positions": full,
    }
    got = fn(logps, bucket)
    whole = logps.shape[1] // bucket
    if isinstance(got, Tensor) and got.shape == (whole,) and whole < len(parts):
        return "the last bucket is missing: the positions left over make one as well"
    return compare(got, of(lambda p: (-p.mean()).exp()), suspects, tol=FLOAT)


def _copies(fn: Callable, looked: list[int], context: list[int], needle: list[int], answer: list[int]) -> str | None:
    inside = [j in needle for j in looked]
    same = [context[j] == x for j, x in zip(looked, answer)]
    distinct = {context[j] for j in needle}
    anywhere = {x for x, b in zip(answer, same) if b}
    hits = [x for x, a, b in zip(answer, inside, same) if a and b]
    suspects = {
        "a look anywhere into the needle counts: the token there must be the one to come": sum(inside) / len(answer),
        "the right token outside the needle counts: the look must fall into the needle": len(anywhere) / len(distinct),
        "a token said twice counts twice: count distinct tokens": len(hits) / len(distinct),
        "that is divided by the answer's tokens: divide by the needle's": len(set(hits)) / len(answer),
        "the needle's tokens are counted with repeats: divide by the distinct ones": len(set(hits)) / len(needle),
    }
    got = fn(*map(torch.tensor, (looked, context, needle, answer)))
    return compare(got, len(set(hits)) / len(distinct), suspects, FLOAT)
