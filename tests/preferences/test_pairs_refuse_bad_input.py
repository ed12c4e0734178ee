"""Every refusal of `build_pairs` is one sentence: settings at once, rows, scores and answers when they come."""

import math

import pytest
import torch
from support.pair_toys import Reader, build_by_keywords, toy_rows
from support.reference import refused

SETTINGS = {
    "rule": ({"rule": "best"}, ValueError, "rule 'best' is unknown: choose one of 'paper', 'released'"),
    "M": ({"num_rejected": 0}, ValueError, "num_rejected is 0"),
    "released M": ({"rule": "released", "num_rejected": 3}, ValueError, "num_rejected is 3: the released rule"),
    "N": ({"num_chunks": 1}, ValueError, "num_chunks is 1: give at least 2"),
    "chunk": ({"chunk_size": 0}, ValueError, "chunk_size is 0"),
    "half a chunk": ({"chunk_size": 2.5}, TypeError, "chunk_size is 2.5"),
    "threshold": ({"threshold": math.nan}, ValueError, "threshold is nan"),
    "similarity": ({"similarity": 0}, ValueError, "similarity is 0"),
    "tries": ({"tries": True}, TypeError, "tries is True"),
    "batch": ({"batch_size": -1}, ValueError, "batch_size is -1"),
    "seed": ({"seed": -1}, ValueError, "seed is -1"),
    "tokenizer": ({"tokenizer": "words"}, TypeError, "tokenizer is 'words'"),
    "scorer": ({"scorer": "rare_words"}, TypeError, "scorer is 'rare_words'"),
    "judge": ({"is_right": 3}, TypeError, "is_right is 3"),
    "no judge": ({"is_right": None, "require_right": True}, ValueError, "require_right is True and is_right is None"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_are_refused_before_any_row_is_read(case):
    options, error, words = SETTINGS[case]

    def rows():
        raise AssertionError("a row was read")
        yield

    refused(error, words, lambda: build_by_keywords(rows(), Reader(), **options))
    refused(TypeError, "answer_fn is None", lambda: build_by_keywords(rows(), None))


GOOD = toy_rows(1)[0]
ROWS = {
    "no context": ({k: v for k, v in GOOD.items() if k != "context"}, ValueError, "examples has no 'context' in row 1"),
    "blank question": ({**GOOD, "question": " "}, ValueError, "examples has no 'question' in row 1"),
    "no answer": (
        {**GOOD, "answer": None},
        ValueError,
        "'answer' in row 1: fill the field or drop the row, or pass is_right",
    ),
    "no answers": ({**GOOD, "answer": []}, ValueError, "examples has no 'answer' in row 1"),
    "a number": ({**GOOD, "context": 7}, ValueError, "examples has a int as 'context' in row 1"),
    "numbers": ({**GOOD, "answer": [7]}, ValueError, "examples has a list as 'answer' in row 1"),
    "a text": ("Lisbon", TypeError, "examples has a str as row 1"),
}


def run(rows, reader=None, **options):
    return build_by_keywords(
        rows, reader or Reader(), progress=False, threshold=0, chunk_size=16, num_chunks=4, **options
    ).run()


@pytest.mark.parametrize("case", ROWS)
def test_a_bad_row_is_named_by_its_number_and_field(case):
    row, error, words = ROWS[case]
    refused(error, words, lambda: run([GOOD, row]))


@pytest.mark.parametrize("examples", [None, "rows.jsonl", {"train": [GOOD]}])
def test_examples_that_are_no_rows_are_refused(examples):
    refused(TypeError, "give an iterable of rows", lambda: run(examples))


@pytest.mark.parametrize(("score", "words"), [(None, "None"), ("3", "'3'"), (math.nan, "nan"), (math.inf, "inf")])
def test_a_score_that_is_no_number_is_named_by_its_row(score, words):
    refused(ValueError, f"scorer returned {words} for a chunk of row 0", lambda: run([GOOD], scorer=lambda *_: score))


def test_scores_may_be_tensors():
    from minilib.preferences.importance import exact_entities

    assert run([GOOD], scorer=lambda *given: torch.tensor(exact_entities(*given))).pairs == 1


@pytest.mark.parametrize(
    ("answers", "error", "words"),
    [
        (lambda prompts: "amber", TypeError, "answer_fn returned 'amber': return a list"),
        (lambda prompts: None, TypeError, "answer_fn returned None"),
        (lambda prompts: [], ValueError, "answer_fn returned 0 answers for 1 prompts"),
        (lambda prompts: [3 for _ in prompts], TypeError, "answer_fn returned 3 as answer 0"),
    ],
)
def test_answers_that_do_not_match_the_prompts_are_refused(answers, error, words):
    refused(error, words, lambda: run([GOOD], answers))
