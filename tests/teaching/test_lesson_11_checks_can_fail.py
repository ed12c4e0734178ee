"""Lesson 11: every check says all three of its lines, the library passes, and each typical mistake has its own hint.

The solutions are the library's: `rare_words`, the plan of `paper_rule`, the tallies of the quality report. A mistake is
the same small function with one slip in it.
"""

import math
import re
from random import Random

import pytest
from support.lesson_exercises import ExercisesCanFail, line_of

from minilib.evals.answers import contains_answer, plain_words
from minilib.preferences.chunking import chunk_text, paper_rule
from minilib.preferences.filtering import QualityReport, Tally, judge
from minilib.preferences.importance import FUNCTION_WORDS, rare_words


def words(text):
    return re.findall(r"\w+", text.lower())


def overlap(chunk, question, context, split=words, function=FUNCTION_WORDS, log=math.log, unique=set, total=len):
    counted = split(context)
    shared = [w for w in unique(split(chunk)) if w in split(question) and w not in function and w in counted]
    return sum(log(total(counted) / counted.count(w)) for w in shared)


def in_the_chunk(chunk, question, context):
    return overlap(chunk, question, chunk)


def library_chunks(scores, threshold, num_chunks):
    plan = paper_rule(scores, threshold, num_chunks, 1, Random(0))
    return [] if isinstance(plan, str) else plan.chosen


def critical(scores, threshold, num_chunks, above=lambda s, t: s > t, order=sorted, late=False, best=True):
    found = [i for i, s in enumerate(scores) if above(s, threshold)]
    found = sorted(found, key=lambda i: (-scores[i], -i if late else i)) if best else found
    return order(found[:num_chunks])


def library_mixed(critical, irrelevant, num_chunks, rng):
    scores = [0.0] * (1 + max(critical + irrelevant))
    for rank, i in enumerate(critical):
        scores[i] = 100.0 - rank
    unknown = set(range(len(scores))) - set(critical) - set(irrelevant)
    names = [i for i in range(len(scores)) if i not in unknown]  # the rule knows no gaps: number what is there
    plan = paper_rule([scores[i] for i in names], 0, num_chunks, 2, rng)
    kind, chunks = next(plan.rejected)
    assert kind == "mixed"
    return [names[i] for i in chunks]


def mixed(critical, irrelevant, num_chunks, rng, half=lambda c, n: max(1, len(c) // 2), order=sorted):
    held = rng.sample(critical, half(critical, num_chunks))
    return order(held + rng.sample(irrelevant, min(len(irrelevant), num_chunks - len(held))))


def best_half(critical, irrelevant, num_chunks, rng):
    held = critical[: max(1, len(critical) // 2)]
    return sorted(held + rng.sample(irrelevant, min(len(irrelevant), num_chunks - len(held))))


def first_distractors(critical, irrelevant, num_chunks, rng):
    held = rng.sample(critical, max(1, len(critical) // 2))
    return sorted(held + irrelevant[: num_chunks - len(held)])


def put_back(critical, irrelevant, num_chunks, rng):
    held = rng.sample(critical, max(1, len(critical) // 2))
    return sorted(held + rng.choices(irrelevant, k=num_chunks - len(held)))


def library_recount(pairs):
    tally = Tally()
    for pair in pairs:
        tally.add_chosen(contains_answer(pair["chosen"], pair))
        for answer in pair["rejected"]:
            tally.add_rejected(judge(answer, pair["chosen"], [], contains_answer(answer, pair), 0.9))
    shares = QualityReport(kept=tally).shares()
    return tuple(shares[name] for name in ("identical pairs", "right negatives", "wrong positives"))


def recount(
    pairs, same=lambda a, b: plain_words(a) == plain_words(b), right=contains_answer, negatives=None, third=None
):
    rejected = [(answer, pair) for pair in pairs for answer in pair["rejected"]]
    whole = negatives(pairs, rejected) if negatives else len(rejected)
    identical = sum(same(answer, pair["chosen"]) for answer, pair in rejected) / whole
    wrong = sum(not right(pair["chosen"], pair) for pair in pairs) / (third(pairs, rejected) if third else len(pairs))
    return identical, sum(right(answer, pair) for answer, pair in rejected) / whole, wrong


def letters(a, b):
    return a == b


def equals_gold(answer, row):
    return answer == row["answer"]


def cut(text, size, pattern=r"\s*\S+(?:\s+$)?", join="".join, whole=False):
    pieces = re.findall(pattern, text)
    end = len(pieces) // size * size if whole else len(pieces)
    return [join(pieces[start : start + size]) for start in range(0, end, size)]


SOLUTIONS = {
    "cut_into_chunks": chunk_text,
    "rare_overlap": lambda chunk, question, context: rare_words(chunk, question, {"context": context}),
    "critical_chunks": library_chunks,
    "mixed_context": library_mixed,
    "recount": library_recount,
}

MISTAKES = [
    ("cut_into_chunks", lambda t, n: cut(t, n, r"\S+", " ".join), "blanks are lost"),
    ("cut_into_chunks", lambda t, n: cut(t, n, r"\S+"), "all blanks are lost"),
    ("cut_into_chunks", lambda t, n: cut(t, n, whole=True), "the last words are missing"),
    ("cut_into_chunks", lambda t, n: cut(t, n, r"\S+\s*|\A\s+"), "the blanks behind it"),
    ("cut_into_chunks", lambda t, n: [t[i : i + n] for i in range(0, len(t), n)], "cut by characters"),
    ("cut_into_chunks", lambda t, n: cut(t, n, r"\S+", list), "lists of words"),
    ("cut_into_chunks", lambda t, n: cut(t, n + 1), "one word too many"),
    ("rare_overlap", lambda c, q, t: overlap(c, q, t, log=lambda ratio: 1), "counts 1"),
    ("rare_overlap", lambda c, q, t: overlap(c, q, t, function=()), "function words"),
    ("rare_overlap", in_the_chunk, "in the whole context"),
    ("rare_overlap", lambda c, q, t: overlap(c, q, t, total=lambda counted: len(set(counted))), "different words"),
    ("rare_overlap", lambda c, q, t: -overlap(c, q, t), "turned round"),
    ("rare_overlap", lambda c, q, t: overlap(c, q, t, unique=list), "counts twice"),
    ("rare_overlap", lambda c, q, t: overlap(c, q, t, log=float), "logarithm is missing"),
    ("rare_overlap", lambda c, q, t: overlap(c, q, t, log=math.log2), "base 2"),
    ("rare_overlap", lambda c, q, t: overlap(c, q, t, split=lambda x: re.findall(r"\w+", x)), "lower case"),
    ("critical_chunks", lambda s, t, n: critical(s, t, n, above=lambda a, b: a >= b), "not above it"),
    ("critical_chunks", lambda s, t, n: critical(s, t, n, above=lambda a, b: a <= b), "irrelevant chunks"),
    ("critical_chunks", lambda s, t, n: critical(s, t, n, best=False), "the first ones"),
    ("critical_chunks", lambda s, t, n: critical(s, t, len(s)), "more than N"),
    ("critical_chunks", lambda s, t, n: critical(s, t, n, order=list), "the order is not"),
    ("critical_chunks", lambda s, t, n: critical(s, -1, n), "filled up"),
    ("critical_chunks", lambda s, t, n: critical(s, t, n, late=True), "the earlier one"),
    ("critical_chunks", lambda s, t, n: [s[i] for i in critical(s, t, n)], "those are the scores"),
    ("mixed_context", lambda c, i, n, r: mixed(c, i, n, r, half=lambda c, n: len(c)), "every critical chunk"),
    ("mixed_context", lambda c, i, n, r: mixed(c, i, n, r, half=lambda c, n: 0), "no critical chunk"),
    ("mixed_context", lambda c, i, n, r: mixed(c, i, n, r, half=lambda c, n: len(c) // 2), "no critical chunk"),
    ("mixed_context", lambda c, i, n, r: mixed(c, i, n, r, half=lambda c, n: 1), "half of those given"),
    ("mixed_context", lambda c, i, n, r: mixed(c, i, n, r, order=list), "not in the order"),
    ("mixed_context", lambda c, i, n, r: mixed(c, i, n + 2, r), "fill up to N"),
    ("mixed_context", best_half, "never come up"),
    ("mixed_context", first_distractors, "hardly change"),
    ("mixed_context", put_back, "comes twice"),
    ("mixed_context", lambda c, i, n, r: mixed(list(range(len(c))), i, n, r), "neither critical"),
    ("recount", lambda p: recount(p, same=letters), "identical is taken letter by letter"),
    ("recount", lambda p: recount(p, right=equals_gold), "right is taken letter by letter"),
    ("recount", lambda p: recount(p, same=letters, right=equals_gold), "both are taken letter by letter"),
    ("recount", lambda p: recount(p, negatives=lambda pairs, rejected: len(pairs)), "number of prompts"),
    ("recount", lambda p: recount(p, third=lambda pairs, rejected: len(rejected)), "that of chosen ones"),
    ("recount", lambda p: (*recount(p)[:2], 1 - recount(p)[2]), "count the wrong ones"),
    ("recount", lambda p: (recount(p)[0], 1 - recount(p)[1], recount(p)[2]), "count the right ones"),
    ("recount", lambda p: recount(p, negatives=lambda *_: 1, third=lambda *_: 1), "those are counts"),
]


NAMES = {
    "math": math,
    "words": words,
    "FUNCTION_WORDS": FUNCTION_WORDS,
    "plain_words": plain_words,
    "contains_answer": contains_answer,
}


class TestExercises(ExercisesCanFail):
    """The tests of every lesson, for this one."""

    notebook = "11_make_chosen_and_rejected_answers.ipynb"
    solutions = SOLUTIONS
    mistakes = MISTAKES
    names = NAMES


@pytest.mark.parametrize(
    ("name", "learner"),
    [("rare_overlap", overlap), ("critical_chunks", critical), ("mixed_context", mixed), ("recount", recount)],
)
def test_the_functions_that_the_mistakes_are_made_from_are_right(capsys, name, learner):
    assert line_of(capsys, name, learner).startswith("Passed: ")
