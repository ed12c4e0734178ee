"""Lesson 08: every check says all three of its lines, the library passes, and each typical mistake has its own hint.

Where the library has the function, it is the solution: the rule for right answers, the cells in reach, the perplexity
of buckets, the score of heads. A mistake is the same small function with one slip in it.
"""

from importlib import import_module

import pytest
import torch
from support.lesson_exercises import ExercisesCanFail, line_of
from torch import nn

from minilib.evals.answers import contains, normalise
from minilib.evals.perplexity import perplexity_by_position
from minilib.teaching.plots.longcontext import in_reach

# By name: the package offers a function of the same name, which hides the module.
retrieval_heads = import_module("minilib.evals.retrieval_heads")


def accuracy(answers, golds, right=contains):
    return sum(bool(right(a, g)) for a, g in zip(answers, golds)) / len(golds)


def words(text):
    return set(normalise(text).split())


def library_reach(depths, lengths, question, window):
    return torch.from_numpy(in_reach(depths, lengths, window, question=question))


def reach(depths, lengths, question, window, needle=4):
    """The right distances, with the fact's own tokens as a knob."""
    return lengths + question - 1 - depths[:, None] * (lengths - needle) < window


class Told(nn.Module):
    """Stands in for a model: the log-probability of token t of a document, whatever it is, is told beforehand."""

    device, vocabulary = "cpu", 2

    def __init__(self, logps):
        super().__init__()
        self.logps = iter(logps)

    def forward(self, input_ids, **_):
        logp = next(self.logps)  # (t,), of tokens 1 to t
        other = torch.log1p(-logp.exp())  # the rest goes to the token that does not come
        logits = torch.stack([other, logp], -1)  # token 1 comes always
        return type("Out", (), {"logits": torch.cat([logits, torch.zeros(1, 2)])[None].double()})


def library_perplexity(logps, bucket):
    """`perplexity_by_position` counts buckets from the first token, which nothing predicts: one bucket is told as one
    document, so that its edges are those of the exercise."""
    found = []
    for part in logps.split(bucket, dim=1):
        tokenizer = type("Tokens", (), {"encode": staticmethod(lambda text, n=part.shape[1], **_: [1] * (n + 1))})
        length = part.shape[1] + 1
        found.append(perplexity_by_position(Told(part), tokenizer, [""] * len(part), length=length, bucket=length)[0])
    return torch.tensor(found, dtype=torch.float64)


def buckets(logps, bucket, measure=lambda part: (-part.mean()).exp()):
    return torch.stack([measure(part) for part in logps.split(bucket, dim=1)])


def library_copies(looked, context, needle, answer):
    """`_score_row` with one head whose looks are told: the words of the context stand for its tokens."""
    text = [f"t{token}" for token in context.tolist()]
    starts = [sum(len(word) + 1 for word in text[:k]) for k in range(len(text))]
    spans = [(start, start + len(word)) for start, word in zip(starts, text)]
    facts = [
        {"asked": True, "start": spans[j][0], "end": spans[j][1], "text": text[j], "value": text[j]}
        for j in needle.tolist()
    ]
    row = {"context": " ".join(text), "question": "", "facts": facts, "answer": answer.tolist()}

    class Tokens:
        def __call__(self, prompt, **_):
            return {"input_ids": context.tolist(), "offset_mapping": spans}

        def encode(self, told, **_):
            return told

    original = retrieval_heads._most_looked_at
    retrieval_heads._most_looked_at = lambda *_: looked.view(-1, 1, 1)
    try:
        model = type("Model", (), {"device": "cpu"})()
        return retrieval_heads._score_row(model, Tokens(), row, "value", "eager")[0].item()
    finally:
        retrieval_heads._most_looked_at = original


def copies(looked, context, needle, answer, inside=True, same=True, distinct=True, by=None):
    hit = torch.ones(len(looked), dtype=torch.bool)
    hit &= torch.isin(looked, needle) if inside else True
    hit &= (context[looked] == answer) if same else True
    below = len(context[needle].unique()) if by is None else by
    return (len(answer[hit].unique()) if distinct else hit.sum().item()) / below


SOLUTIONS = {
    "needle_accuracy": accuracy,
    "cells_in_reach": library_reach,
    "perplexity": library_perplexity,
    "copy_score": library_copies,
}

MISTAKES = [
    ("needle_accuracy", lambda a, g: accuracy(a, g, lambda a, g: g in a), "capital letters"),
    ("needle_accuracy", lambda a, g: accuracy(a, g, lambda a, g: a.lower() == g), "a sentence around the word"),
    ("needle_accuracy", lambda a, g: accuracy(a, g, lambda a, g: g in a.lower()), "a piece of a longer word"),
    ("needle_accuracy", lambda a, g: accuracy(a, g, lambda a, g: words(g) <= words(a)), "another order"),
    ("needle_accuracy", lambda a, g: accuracy(a, g, lambda a, g: words(g) & words(a)), "one of several words"),
    ("needle_accuracy", lambda a, g: accuracy(a, g) * len(g), "divide by all"),
    ("cells_in_reach", lambda d, n, q, w: (n + q - 1 + 0 * d[:, None]) < w, "whole length is compared"),
    ("cells_in_reach", lambda d, n, q, w: reach(1 - d, n, q, w), "are exchanged: 0 is the beginning"),
    ("cells_in_reach", lambda d, n, q, w: reach(d, n, 0, w), "the question is left out"),
    ("cells_in_reach", lambda d, n, q, w: reach(d, n, q, w + 1), "one distance too many"),
    ("cells_in_reach", lambda d, n, q, w: reach(d, n, q, w - 1), "one distance is missing"),
    ("cells_in_reach", lambda d, n, q, w: reach(d, n, q, w, needle=0), "own tokens are left out"),
    ("cells_in_reach", lambda d, n, q, w: reach(d, n, q, w)[:, :-1].T, "shape"),
    ("perplexity", lambda p, b: buckets(p, b, lambda x: x.mean().exp()), "the sign is missing"),
    ("perplexity", lambda p, b: buckets(p, b, lambda x: (-x).exp().mean()), "exponentials are averaged"),
    ("perplexity", lambda p, b: buckets(p, b, lambda x: (-x).mean(1).exp().mean()), "perplexities of documents"),
    ("perplexity", lambda p, b: buckets(p, b, lambda x: (-x).sum().exp()), "logarithms are added"),
    ("perplexity", lambda p, b: buckets(p, b, lambda x: -x.mean()), "mean surprise"),
    ("perplexity", lambda p, b: buckets(p, b, lambda x: 2 ** -x.mean()), "base is 2"),
    ("perplexity", lambda p, b: buckets(p, b, lambda x: (-x.sum() / (len(x) * b)).exp()), "divided by a full one"),
    ("perplexity", lambda p, b: buckets(p, b)[: p.shape[1] // b], "last bucket is missing"),
    ("copy_score", lambda j, c, n, x: copies(j, c, n, x, same=False, distinct=False, by=len(x)), "a look anywhere"),
    ("copy_score", lambda j, c, n, x: copies(j, c, n, x, inside=False), "outside the needle counts"),
    ("copy_score", lambda j, c, n, x: copies(j, c, n, x, distinct=False), "counts twice"),
    ("copy_score", lambda j, c, n, x: copies(j, c, n, x, by=len(x)), "divide by the needle's"),
    ("copy_score", lambda j, c, n, x: copies(j, c, n, x, by=len(n)), "divide by the distinct ones"),
]


class TestExercises(ExercisesCanFail):
    """The tests of every lesson, for this one."""

    notebook = "08_see_long_context_models_fail.ipynb"
    solutions = SOLUTIONS
    mistakes = MISTAKES


@pytest.mark.parametrize(("name", "base"), [("cells_in_reach", reach), ("perplexity", buckets), ("copy_score", copies)])
def test_what_the_mistakes_are_made_from_is_right(capsys, name, base):
    assert line_of(capsys, name, base).startswith("Passed: ")


def test_exchanged_rows_and_columns_are_told(capsys):
    line = line_of(capsys, "cells_in_reach", lambda d, n, q, w: reach(d, n, q, w).T)
    assert "rows and columns are exchanged" in line
