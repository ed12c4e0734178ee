"""Lesson 08: every check says all three of its lines, the library passes, and each typical mistake has its own hint.

Where the library has the function, it is the solution: the rule for right answers, the cells in reach, the perplexity
of buckets, the score of heads. A mistake is the same small function with one slip in it.
"""

import re
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
import torch
from lesson_rules import exercises
from torch import nn

from minilib.evals.longcontext import contains, normalise
from minilib.evals.perplexity import perplexity_by_position
from minilib.teaching import checks
from minilib.teaching.plots.longcontext import in_reach

# By name: the package offers a function of the same name, which hides the module.
retrieval_heads = import_module("minilib.evals.retrieval_heads")

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "08_see_long_context_models_fail.ipynb"


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
        tokenizer = type("Tokens", (), {"encode": staticmethod(lambda text, n=part.shape[1]: [1] * (n + 1))})
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


def line_of(capsys, name, learner):
    getattr(checks, f"check_{name}")(learner)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1, printed
    return printed.strip()


def lesson():
    return nbformat.read(NOTEBOOK, as_version=4)


def stub(name):
    """The stub of the notebook as a function."""
    scope = {}
    exec(next(c.source for c in lesson().cells if f"def {name}(" in c.source and "raise NotImpl" in c.source), scope)
    return scope[name]


def test_every_exercise_of_the_lesson_is_tried_here():
    asked = re.findall(r"checks\.check_(\w+)\(", "\n".join(c.source for c in lesson().cells if c.cell_type == "code"))
    assert asked == list(SOLUTIONS)
    assert len(exercises(lesson())) == len(SOLUTIONS)
    assert all(sum(name == mistaken for mistaken, _, _ in MISTAKES) >= 3 for name in SOLUTIONS)


@pytest.mark.parametrize("name", SOLUTIONS)
def test_the_stub_of_the_notebook_is_not_attempted_yet(capsys, name):
    assert line_of(capsys, name, stub(name)).startswith("Not attempted yet: ")


@pytest.mark.parametrize("name", SOLUTIONS)
def test_the_library_passes(capsys, name):
    assert line_of(capsys, name, SOLUTIONS[name]).startswith("Passed: ")


@pytest.mark.parametrize(("name", "base"), [("cells_in_reach", reach), ("perplexity", buckets), ("copy_score", copies)])
def test_what_the_mistakes_are_made_from_is_right(capsys, name, base):
    assert line_of(capsys, name, base).startswith("Passed: ")


@pytest.mark.parametrize(("name", "learner", "hint"), MISTAKES, ids=[f"{n}: {w}" for n, _, w in MISTAKES])
def test_a_typical_mistake_gets_a_hint_of_its_own(capsys, name, learner, hint):
    line = line_of(capsys, name, learner)
    assert line.startswith("Not yet: "), line
    assert hint in line, line
    assert line == line_of(capsys, name, learner)
    assert not re.search(r"0x[0-9a-f]{6,}|/\w+/\w+", line)  # no addresses, no paths


def test_the_hints_of_one_exercise_differ(capsys):
    for name in SOLUTIONS:
        lines = [line_of(capsys, name, learner) for mistaken, learner, _ in MISTAKES if mistaken == name]
        assert len(set(lines)) == len(lines), lines


def test_exchanged_rows_and_columns_are_told(capsys):
    line = line_of(capsys, "cells_in_reach", lambda d, n, q, w: reach(d, n, q, w).T)
    assert "rows and columns are exchanged" in line


@pytest.mark.parametrize("name", SOLUTIONS)
def test_whatever_the_function_returns_or_raises_the_check_prints_one_line(capsys, name):
    def broken(*args):
        raise ZeroDivisionError("division by zero")

    for learner in (broken, lambda *args: None, lambda *args: "text", lambda *args: torch.zeros(2, 3, 4)):
        assert line_of(capsys, name, learner).startswith("Not yet: ")


@pytest.mark.parametrize("name", SOLUTIONS)
def test_the_solution_that_is_folded_in_the_notebook_passes(capsys, name):
    folds = [c.source for c in lesson().cells if c.cell_type == "markdown"]
    folded = next(block for text in folds for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
                  if f"def {name}(" in block)  # fmt: skip
    scope = {"torch": torch}
    exec(folded, scope)
    assert line_of(capsys, name, scope[name]).startswith("Passed: ")
