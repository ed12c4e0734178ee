"""Checks of lesson 15, let an encoder pick the chunks: recall at k, the floor under repeats, a threshold.

Solutions: `minilib.bench.scorers.recall`, and the loss of a batch in which pairs repeat, at its minimum.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence

from minilib.teaching.checks.contract import compare, run

FAR = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]


def check_recall_at(learner: Callable[[Sequence[float], Sequence[int], int], float]) -> None:
    """Exercise: `recall_at(scores, critical, k)`, the share of critical chunks among the k best."""
    cases = {
        "for four critical chunks and k = 3": lambda fn: _recall(fn, [0.1, 0.9, 0.4, 0.6, 0.3, 0.2], [0, 1, 3, 4], 3),
        "for three critical chunks and k = 2": lambda fn: _recall(fn, [0.8, 0.2, 0.7, 0.5, 0.1], [0, 2, 3], 2),
        "for k = 5 and one critical chunk": lambda fn: _recall(fn, [0.5, 0.3, 0.2, 0.9, 0.8, 0.1], [2], 5),
        "for scores below zero": lambda fn: _recall(fn, [-0.5, -0.1, -0.9, -0.2], [1, 2], 1),
    }
    run(learner, cases, "recall asks how much of what matters is found, whatever else is read with it")


def check_loss_floor(learner: Callable[[Sequence[str]], float]) -> None:
    """Exercise: `loss_floor(facts)`, the least loss of a batch whose pairs of one fact cannot be told apart."""
    cases = {
        "for four different facts": lambda fn: _floor(fn, ["goat", "harp", "taxi", "plums"]),
        "for one fact three times": lambda fn: _floor(fn, ["goat", "goat", "goat"]),
        "for a fact that comes twice among five": lambda fn: _floor(fn, ["goat", "harp", "goat", "taxi", "plums"]),
        "for two facts, three times and once": lambda fn: _floor(fn, ["goat", "harp", "goat", "goat"]),
    }
    run(learner, cases, "repeats lift the floor to the mean of log g: such a loss says nothing about recall")


def check_threshold(learner: Callable[[Sequence[float], Sequence[bool]], float]) -> None:
    """Exercise: `threshold(scores, critical)`, above which F1 is highest, midway between two scores."""
    cases = {
        "where the critical chunks are the best ones": lambda fn: _threshold(fn, [0.9, 0.7, 0.3, 0.1], [1, 1, 0, 0]),
        "where an irrelevant chunk stands between": lambda fn: _threshold(
            fn, [0.2, 0.8, 0.5, 0.6, 0.1], [0, 1, 1, 0, 0]
        ),
        "where one critical chunk lies far below": lambda fn: _threshold(fn, FAR, [1, 1, 0, 0, 0, 0, 0, 1]),
    }
    run(learner, cases, "a cosine has no natural zero, so its threshold is learned where the truth is known")


def _recall(fn: Callable, scores: list[float], critical: list[int], k: int) -> str | None:
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    hits = len({*order[:k]} & {*critical})
    suspects = {
        "that is precision: divide by the number of critical chunks, not by k": hits / k,
        "those are hits: divide by the number of critical chunks": float(hits),
        "the lowest scores are taken for the best": len({*order[-k:]} & {*critical}) / len(critical),
        "the first k chunks of the text are taken: sort by score": len({*range(k)} & {*critical}) / len(critical),
        "a single hit counts as everything": float(hits > 0),
    }
    want = hits / len(critical)
    return compare(fn(list(scores), list(critical), k), want, {h: s for h, s in suspects.items() if s != want})


def _floor(fn: Callable, facts: list[str]) -> str | None:
    counts = Counter(facts)
    want = sum(math.log(counts[fact]) for fact in facts) / len(facts)
    each, mean = sum(map(math.log, counts.values())) / len(counts), sum(counts[fact] for fact in facts) / len(facts)
    suspects = {
        "every fact is counted once: take the mean over pairs, not over different facts": each,
        "the logarithm is taken of the mean: take the mean of the logarithms": math.log(mean),
        "that is the logarithm of pairs per fact: a pair has its own twins": math.log(len(facts) / len(counts)),
        "the logarithm is missing": mean,
        "that is the sum over the batch: divide by its size": want * len(facts),
        "that is the loss of a model that knows nothing: only twins cannot be told apart": math.log(len(facts)),
    }
    return compare(fn(list(facts)), want, {hint: s for hint, s in suspects.items() if abs(s - want) > 1e-9})


def _threshold(fn: Callable, scores: list[float], flags: list[int]) -> str | None:
    critical = [bool(flag) for flag in flags]
    ranked = sorted(zip(scores, critical), reverse=True)
    f1 = [2 * sum(flag for _, flag in ranked[:k]) / (k + sum(critical)) for k in range(1, len(ranked))]
    best = f1.index(max(f1))
    want = (ranked[best][0] + ranked[best + 1][0]) / 2
    above = [score for score, _ in ranked if score > want]
    lowest = min(score for score, flag in ranked if flag)
    below = max([score for score, _ in ranked if score < lowest], default=lowest)
    correct = [sum(flag == (score > cut) for score, flag in ranked) for cut in scores]
    decided = "that is the cut with the most right decisions: most chunks are irrelevant, so take F1"
    suspects = {
        "a chunk that equals the threshold is not above it: go halfway to the next lower score": above[-1],
        "all critical chunks are above it, and much else: F1 weighs both": (lowest + below) / 2,
        "that is the highest irrelevant score: F1 may let some of them pass": max(s for s, flag in ranked if not flag),
        decided: scores[correct.index(max(correct))],
    }
    return compare(fn(list(scores), list(critical)), want, {h: s for h, s in suspects.items() if abs(s - want) > 1e-9})
