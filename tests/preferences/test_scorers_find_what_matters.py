"""Proves that the exact scorer finds every critical chunk and no other, and what rare words and entities count."""

import math
import sys
from itertools import islice
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pair_toys import places, toy_rows
from support.reference import refused

from minilib.data.haystack import KINDS, haystack
from minilib.preferences.chunking import chunk_text
from minilib.preferences.importance import exact_entities, rare_words, spacy_entities


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(3, 40))
def test_every_critical_chunk_is_found_and_no_other(seed, kept, size):
    (row,) = toy_rows(1, kept=kept, seed=seed)
    chunks = chunk_text(row["context"], size)
    asked = [fact for fact in row["facts"] if fact["name"] in row["question"]]
    for chunk, (start, end) in zip(chunks, places(chunks)):
        # Of a fact that lies across a cut, "keeps" alone tells nothing.
        inside = [row["context"][max(start, f["start"]) : min(end, f["end"])].strip() for f in asked]
        critical = any(piece and piece != "keeps" for piece in inside)
        assert (exact_entities(chunk, row["question"], row) > 0) == critical


@pytest.mark.parametrize("kind", KINDS)
def test_on_the_real_haystack_every_critical_chunk_is_found_and_no_other(kind):
    critical = 0
    for row in islice(haystack(length=600, kind=kind, values=3), 25):
        chunks = chunk_text(row["context"], 32)
        asked = [fact for fact in row["facts"] if fact["asked"]]
        for chunk, (start, end) in zip(chunks, places(chunks)):
            inside = [row["context"][max(start, f["start"]) : min(end, f["end"])].strip() for f in asked]
            told = any(piece and piece != "keeps" for piece in inside)
            assert (exact_entities(chunk, row["question"], row) > 0) == told
            critical += told
    assert critical >= 25


def test_exact_entities_count_names_and_values_as_whole_words():
    row = {
        "facts": [{"name": "Rome", "value": "tea"}, {"name": "Rome", "value": "oil"}, {"name": "Oslo", "value": "fish"}]
    }
    assert exact_entities("Rome keeps tea. Oslo keeps fish.", "What does Rome keep?", row) == 2
    assert exact_entities("tea and oil in Rome", "What does Rome keep?", row) == 3
    assert exact_entities("Romeo steals a teapot", "What does Rome keep?", row) == 0


def test_exact_entities_need_facts():
    refused(ValueError, "exact_entities needs rows with 'facts'", lambda: exact_entities("a", "b", {}))


def test_rare_words_are_worth_the_logarithm_of_their_rarity():
    context = "zinc " * 2 + "keeps " * 8 + "the " * 90  # 100 words
    row = {"context": context}
    assert rare_words("the zinc", "What is the zinc?", row) == pytest.approx(math.log(50))
    assert rare_words("Zinc, zinc keeps", "Who keeps zinc?", row) == pytest.approx(math.log(50) + math.log(12.5))
    assert rare_words("the is what", "What is the zinc?", row) == 0
    assert rare_words("gold", "Is it gold?", row) == 0  # not a word of this context


def test_a_word_that_stands_once_in_400_is_worth_about_six():
    row = {"context": "zinc " + "sand " * 399}
    assert rare_words("zinc", "zinc?", row) == pytest.approx(6, abs=0.01)


def test_rare_words_find_the_asked_fact_among_others_of_the_same_make():
    for row in toy_rows(20):
        chunks = chunk_text(row["context"], 12)
        scores = [rare_words(chunk, row["question"], row) for chunk in chunks]
        name = row["question"].split()[2]
        assert name in chunks[scores.index(max(scores))]


def fake_pipeline(text):
    """A pipeline of spaCy's shape: capitalised words are entities; words in -ing are verbs, the rest is of no kind."""
    words = [word.strip(".,?") for word in text.split()]
    tokens = [
        SimpleNamespace(lemma_=w.lower().removesuffix("ing"), pos_="VERB" if w.endswith("ing") else "X") for w in words
    ]
    return Parsed(tokens, [SimpleNamespace(text=word) for word in words if word.istitle()])


class Parsed(list):
    def __init__(self, tokens, ents):
        super().__init__(tokens)
        self.ents = ents


def test_named_entities_are_matched_with_the_question_and_by_wish_with_lemmas_and_the_answer():
    chunk, question, row = "Anna was walking to Oslo, Oslo and Rome.", "Is Anna walking in oslo?", {"answer": "Rome"}
    assert spacy_entities(fake_pipeline)(chunk, question, row) == 1  # Anna; "Is" stands in no chunk
    assert spacy_entities(fake_pipeline, lemmas=True)(chunk, question, row) == 2  # and walk
    assert spacy_entities(fake_pipeline, with_answer=True)(chunk, question, row) == 2  # Anna, Rome
    row["answer"] = ["Rome", "Oslo"]
    assert spacy_entities(fake_pipeline, lemmas=True, with_answer=True)(chunk, question, row) == 4


def test_spacys_own_pipeline_is_understood():
    spacy = pytest.importorskip("spacy", reason="spaCy is not installed: the fake pipeline has to do")
    nlp = spacy.blank("en")
    nlp.add_pipe("entity_ruler").add_patterns([{"label": "GPE", "pattern": name} for name in ("Lisbon", "Oslo")])
    score = spacy_entities(nlp)
    assert score("Lisbon keeps amber. Oslo keeps tea.", "What does Lisbon keep?", {}) == 1
    assert score("Oslo keeps tea.", "What does Lisbon keep?", {}) == 0
    refused(ValueError, "needs its model 'no_such_model'", lambda: spacy_entities("no_such_model"))


def test_without_spacy_the_refusal_names_another_scorer(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    refused(ValueError, "needs spaCy, which is not installed: install it, or use rare_words", spacy_entities)
