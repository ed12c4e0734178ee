"""A haystack's facts lie where the row says, and its answers can be read back from nothing but the text.

The reader below knows one thing, that a fact reads "Lisbon keeps amber.", and works every answer out again.
"""

import re
from itertools import islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.reference import refused

from minilib.data.facts import KINDS, NAMES, NUMBERS, VALUES, fact_chunks, questions
from minilib.data.haystack import haystack, haystack_dataset, hide_facts
from minilib.data.running_text import prose_sentences, token_counter
from minilib.models.tiny_lm import tiny_lm


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_lm()[1]


def read_answer(context: str, question: str) -> str:
    """The answer, from the text alone."""
    kept = {}
    for name, thing in re.findall(r"\b([A-Z][a-z]+) keeps ([a-z]+)\.", context):
        kept.setdefault(name, []).append(thing)
    names = [word for word in re.findall(r"[A-Z][a-z]+", question) if word in kept]
    things = [kept[name] for name in names]
    if question.startswith("How many"):
        return ("no", "one", "two", "three", "four")[len(things[0])]
    if " both " in question:
        (common,) = set(things[0]) & set(things[1])
        return common
    return " and ".join(things[0])


@settings(max_examples=40)
@given(
    st.sampled_from(KINDS), st.integers(60, 400), st.integers(2, 4), st.integers(0, 6), st.integers(0, 2**30), st.data()
)
def test_every_fact_and_every_answer_can_be_read_back_from_the_text(kind, length, values, others, seed, data):
    depth = data.draw(st.none() | st.floats(0, 1))
    settings = {"kind": kind, "length": length, "values": values, "distractors": others, "seed": seed, "depth": depth}
    row = next(haystack(**settings))
    pieces = re.findall(r"\w+|[^\w\s]", row["context"])
    assert len(pieces) == row["tokens"] <= length
    assert read_answer(row["context"], row["question"]) == row["answer"]
    assert len(re.findall(r"\w+ keeps \w+\.", row["context"])) == len(row["facts"])
    for fact in row["facts"]:
        assert row["context"][fact["start"] : fact["end"]] == fact["text"]
        assert pieces[fact["token_start"] : fact["token_end"]] == [fact["name"], "keeps", fact["value"], "."]
        assert fact["asked"] == (fact["name"] in re.findall(r"\w+", row["question"]))
        assert fact["depth"] == pytest.approx(fact["token_start"] / max(row["tokens"] - 4, 1))


def test_tokens_of_a_real_tokenizer_are_counted_exactly(tokenizer):
    for row in islice(haystack(length=300, kind="multi", tokenizer=tokenizer), 20):
        ids = tokenizer.encode(row["context"])
        assert len(ids) == row["tokens"] <= 300
        for fact in row["facts"]:
            assert tokenizer.decode(ids[fact["token_start"] : fact["token_end"]]).strip() == fact["text"]


@pytest.mark.parametrize("depth", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_the_asked_fact_lies_at_the_depth_that_was_wished_for(depth):
    for row in islice(haystack(length=500, depth=depth), 30):
        (asked,) = [fact for fact in row["facts"] if fact["asked"]]
        sentences = re.split(r"(?<=[.]) (?=[A-Z])", row["context"])
        longest = max(len(re.findall(r"\w+|[^\w\s]", sentence)) for sentence in sentences)
        assert abs(asked["depth"] - depth) * row["tokens"] <= longest / 2 + 4  # to the nearest gap, and the fact itself
        if depth in (0.0, 1.0):
            assert asked["depth"] == depth


def test_each_asked_fact_may_have_a_depth_of_its_own():
    for row in islice(haystack(length=600, kind="multi", depth=(0.1, 0.9)), 10):
        assert [fact["depth"] < 0.5 for fact in row["facts"] if fact["asked"]] == [True, False]


def test_only_the_place_changes_with_the_depth():
    early, late = (next(haystack(length=300, depth=depth, seed=5)) for depth in (0.0, 1.0))
    assert early["context"] != late["context"]
    assert sorted(early["context"].split()) == sorted(late["context"].split())
    assert (early["question"], early["answer"]) == (late["question"], late["answer"])


def test_a_fact_knows_its_chunks():
    across = 0
    for row in islice(haystack(length=300, chunk_size=16), 40):
        pieces = re.findall(r"\w+|[^\w\s]", row["context"])
        chunks = [pieces[i : i + 16] for i in range(0, len(pieces), 16)]
        for fact in row["facts"]:
            words = [fact["name"], "keeps", fact["value"], "."]
            held = [i for i, chunk in enumerate(chunks) if any(chunk[k : k + 4] == words for k in range(13))]
            assert held == [i for i in fact["chunks"] if len(fact["chunks"]) == 1]
            across += len(fact["chunks"]) == 2
    assert across, "no fact lay across a cut, so that case was not seen"
    assert fact_chunks({"token_start": 14, "token_end": 18}, 16) == [0, 1]
    assert fact_chunks({"token_start": 12, "token_end": 16}, 16) == [0]


def test_no_needle_word_occurs_in_the_running_text_and_no_word_is_both():
    assert len({*NAMES, *VALUES}) == len(NAMES) + len(VALUES) == 128
    text = set(re.findall(r"[a-z]+", " ".join(prose_sentences()).lower()))
    assert not text & {word.lower() for word in NAMES + VALUES}
    assert len(prose_sentences()) > 1000


def test_documentation_that_speaks_of_a_needle_is_left_out(monkeypatch):
    plain = ["The first sentence has only plain words in it.", "The third sentence has only plain words in it."]
    text = f"{plain[0]} A second sentence has Amber in it. {plain[1]} Too short.\n\nA line without a full stop at all"
    monkeypatch.setattr("pydoc_data.topics.topics", {"any": text})
    prose_sentences.cache_clear()
    try:
        assert list(prose_sentences()) == plain
    finally:
        monkeypatch.undo()
        prose_sentences.cache_clear()


def test_running_text_runs_as_it_was_written():
    text = hide_facts(Random(3), (), length=200, measure=token_counter())["context"]
    first = next(i for i, sentence in enumerate(prose_sentences()) if text.startswith(sentence))
    assert text.startswith(" ".join(prose_sentences()[first : first + 3]))


def test_row_k_depends_on_nothing_but_k():
    rows = list(islice(haystack(seed=9), 12))
    assert list(islice(haystack(seed=9, start=7), 5)) == rows[7:]
    assert next(haystack(seed=8)) != rows[0]
    assert len({row["context"] for row in rows}) == 12


def test_a_dataset_and_a_stream_hold_the_same_rows(tokenizer):
    settings = {"kind": "shared", "length": 200, "seed": 4, "tokenizer": tokenizer, "chunk_size": 32}
    rows = list(islice(haystack(**settings), 6))
    assert list(haystack_dataset(6, **settings)) == rows
    assert list(haystack_dataset(6, streaming=True, **settings)) == rows


def test_all_questions_that_facts_settle_are_found():
    facts = [{"name": n, "value": v} for n, v in (("Oslo", "tea"), ("Lima", "salt"), ("Oslo", "salt"))]
    assert questions(facts) == [
        ("multi", "Which things does Oslo keep?", "tea and salt"),
        ("count", "How many things does Oslo keep?", NUMBERS[2]),
        ("single", "What does Lima keep?", "salt"),
        ("count", "How many things does Lima keep?", NUMBERS[1]),
        ("shared", "What do Oslo and Lima both keep?", "salt"),
    ]


BAD = {
    "kind": ({"kind": "riddle"}, ValueError, "kind 'riddle' is unknown"),
    "length": ({"length": 0}, ValueError, "length must be at least 1, got 0"),
    "length type": ({"length": "long"}, TypeError, "length must be an integer"),
    "values": ({"values": 5}, ValueError, "values must be 2 to 4, got 5"),
    "distractors": ({"distractors": 61}, ValueError, "distractors must be at most 60"),
    "seed": ({"seed": -1}, ValueError, "seed must be at least 0"),
    "tokenizer": ({"tokenizer": 7}, TypeError, "tokenizer must be callable or offer encode, got 7"),
    "chunks": ({"chunk_size": 0}, ValueError, "chunk_size must be at least 1, got 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_haystack_refuses_at_once(case):
    settings, error, words = BAD[case]
    refused(error, words, lambda: haystack(**settings))
    refused(error, words, lambda: haystack_dataset(3, streaming=True, **settings))


def test_a_context_too_short_for_its_facts_is_refused():
    refused(ValueError, "length must hold the 16 tokens of the facts, got 10", lambda: next(haystack(length=10)))


@pytest.mark.parametrize("depth", [1.5, -0.1, (0.1, 0.2)])
def test_a_depth_outside_the_text_is_refused(depth):
    refused(ValueError, "depth must be one number from 0 to 1", lambda: next(haystack(depth=depth)))
