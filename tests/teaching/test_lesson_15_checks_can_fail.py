"""Lesson 15: every check says all three of its lines, the library passes, and each typical mistake has its own hint."""

import math
from collections import Counter

import pytest
import torch
from support.lesson_exercises import ExercisesCanFail

from minilib import clip_loss
from minilib.bench.scorers import recall


def recall_at(scores, critical, k, best=True, over=len):
    order = sorted(range(len(scores)), key=lambda i: -scores[i] if best else scores[i])
    return len({*order[:k]} & {*critical}) / over(critical)


def loss_floor(facts, log=math.log):
    counts = Counter(facts)
    return sum(log(counts[fact]) for fact in facts) / len(facts)


def in_library(scores, critical):
    return recall.best_threshold([{"critical": [critical]}], [[scores]])


def f1(scores, critical, cut):
    found = [flag for score, flag in zip(scores, critical) if score >= cut]
    return 2 * sum(found) / (len(found) + sum(critical))


def at_score(scores, critical):
    return max(scores, key=lambda cut: f1(scores, critical, cut))


def lets_all_in(scores, critical):
    lowest = min(score for score, flag in zip(scores, critical) if flag)
    return (lowest + max([score for score in scores if score < lowest], default=lowest)) / 2


SOLUTIONS = {"recall_at": recall_at, "loss_floor": loss_floor, "threshold": in_library}

MISTAKES = [
    ("recall_at", lambda s, c, k: recall_at(s, c, k, over=lambda _: k), "that is precision"),
    ("recall_at", lambda s, c, k: recall_at(s, c, k, over=lambda _: 1), "those are hits"),
    ("recall_at", lambda s, c, k: recall_at(s, c, k, best=False), "the lowest scores"),
    ("recall_at", lambda s, c, k: len({*range(k)} & {*c}) / len(c), "the first k chunks of the text"),
    ("recall_at", lambda s, c, k: float(recall_at(s, c, k) > 0), "a single hit counts as everything"),
    ("loss_floor", lambda f: sum(map(math.log, Counter(f).values())) / len({*f}), "every fact is counted once"),
    ("loss_floor", lambda f: math.log(loss_floor(f, log=float)), "take the mean of the logarithms"),
    ("loss_floor", lambda f: math.log(len(f) / len({*f})), "the logarithm of pairs per fact"),
    ("loss_floor", lambda f: loss_floor(f, log=float), "the logarithm is missing"),
    ("loss_floor", lambda f: loss_floor(f) * len(f), "the sum over the batch"),
    ("loss_floor", lambda f: math.log(len(f)), "a model that knows nothing"),
    ("threshold", at_score, "go halfway to the next lower score"),
    ("threshold", lets_all_in, "all critical chunks are above it"),
    ("threshold", lambda s, c: max(x for x, flag in zip(s, c) if not flag), "the highest irrelevant score"),
]


class TestExercises(ExercisesCanFail):
    """The tests of every lesson, for this one."""

    notebook = "15_let_an_encoder_pick_the_chunks.ipynb"
    solutions = SOLUTIONS
    mistakes = MISTAKES
    names = {"math": math}  # noqa: RUF012


def test_the_floor_of_the_exercise_is_what_the_loss_comes_to():
    facts = [0, 1, 0, 2, 0, 1]
    features = torch.nn.functional.one_hot(torch.tensor(facts)).double()  # equal for twins, orthogonal otherwise
    loss = clip_loss(features, features, torch.tensor(60.0, dtype=torch.float64))
    assert loss.item() == pytest.approx(loss_floor(facts), abs=1e-9)


def test_recall_of_the_exercise_is_that_of_the_library():
    scores, critical = [0.1, 0.9, 0.4, 0.6, 0.3], [1, 2, 4]
    flags = [k in critical for k in range(5)]
    found = recall.recalls([{"critical": [flags], "rows": [0], "chunks": [""] * 5}], [[scores]])
    assert found["curve"][:5] == pytest.approx([recall_at(scores, critical, k) for k in range(1, 6)], abs=1e-4)
    assert found["at_critical"]["mean"] == pytest.approx(recall_at(scores, critical, 3), abs=1e-4)
