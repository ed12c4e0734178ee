"""Proves that chunks are the text again, that no word is cut, and that both rules choose what their equations say.

The judge of a rule is written down from the paper with sets, without the library's helpers.
"""

from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from minilib.data.running_text import token_counter
from minilib.preferences.chunking import chunk_text, count_words, paper_rule, released_rule

TEXTS = st.text(alphabet="ab é\n\t,", max_size=80)
SCORES = st.lists(st.integers(0, 9), min_size=1, max_size=24)


def letters(text):
    """The tokens of a tokenizer for which every letter is one."""
    return [letter for letter in text if not letter.isspace()]


@given(TEXTS, st.integers(1, 7))
def test_chunks_joined_are_the_text_and_none_is_longer_than_its_size(text, size):
    for tokens in (count_words, token_counter(letters)):
        chunks = chunk_text(text, size, tokens)
        assert "".join(chunks) == text
        assert all(0 < tokens(chunk) <= size for chunk in chunks) or not text.strip()


def test_chunks_are_filled_with_as_many_whole_words_as_fit():
    assert chunk_text("one two three four five", 2) == ["one two", " three four", " five"]
    assert chunk_text("  one\ntwo  ", 1) == ["  one", "\ntwo  "]
    assert chunk_text("ab cde f", 3, token_counter(letters)) == ["ab", " cde", " f"]
    assert chunk_text("abcdefghi", 3, token_counter(letters)) == ["ab", "cd", "ef", "ghi"]  # halved until it fits
    assert chunk_text("", 3) == []


def test_tokens_of_both_kinds_of_tokenizer_are_counted_and_not_the_keys_of_a_dict():
    plain = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()  # cuts punctuation off
    text = "a, b. c d, e"
    for tokenizer in (plain, PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]")):
        assert token_counter(tokenizer)(text) == 8
        assert chunk_text(text, 4, token_counter(tokenizer)) == ["a, b.", " c d, e"]


@given(SCORES, st.integers(0, 8), st.integers(2, 9), st.integers(1, 5), st.integers(0, 99))
def test_the_papers_rule_keeps_its_equations(scores, threshold, num_chunks, num_rejected, seed):
    critical = {i for i, s in enumerate(scores) if s > threshold}
    irrelevant = {i for i, s in enumerate(scores) if s <= threshold}
    plan = paper_rule(scores, threshold, num_chunks, num_rejected, Random(seed))
    if not critical or not irrelevant:
        assert plan == ("no critical chunk" if not critical else "no irrelevant chunk")
        return
    chosen, prompt = set(plan.chosen), set(plan.prompt)
    assert chosen <= critical
    assert len(chosen) == min(num_chunks, len(critical))
    assert all(scores[i] >= scores[j] for i in chosen for j in critical - chosen)
    assert plan.left_out == len(critical - chosen)
    assert prompt & critical == chosen
    assert len(prompt) == min(num_chunks, len(chosen) + len(irrelevant))
    draws = list(islice(plan.rejected, num_rejected + 20))
    assert len({tuple(chunks) for _, chunks in draws}) == len(draws)
    for kind, chunks in draws:
        held = set(chunks) & critical
        assert held <= chosen
        assert len(held) == (max(1, len(chosen) // 2) if kind == "mixed" else 0)
        assert len(chunks) == min(num_chunks, len(held) + len(irrelevant))
    for chunks in (plan.chosen, plan.prompt, *(chunks for _, chunks in draws)):
        assert chunks == sorted(set(chunks))


def test_the_kinds_of_rejected_answers_alternate_and_the_stand_ins_are_irrelevant():
    scores = [9, 9, *[0] * 30]
    for num_rejected, kinds in [(1, "i"), (2, "mi"), (3, "imi"), (4, "mimi")]:
        plan = paper_rule(scores, 6, 4, num_rejected, Random(0))
        assert "".join(kind[0] for kind, _ in islice(plan.rejected, num_rejected + 3)) == kinds + "iii"


def test_different_seeds_draw_different_chunks():
    scores = [9, *[0] * 30]
    assert len({tuple(paper_rule(scores, 6, 4, 2, Random(seed)).prompt) for seed in range(20)}) > 15


def test_a_score_at_the_threshold_is_irrelevant_to_the_paper_and_enough_for_the_released_code():
    assert paper_rule([6, 0], 6, 2, 2, Random(0)) == "no critical chunk"
    assert released_rule([3, 3], 3, 2, 2, Random(0)).chosen == [0, 1]


@given(SCORES, st.integers(0, 9), st.integers(2, 9))
def test_the_released_rule_keeps_the_best_and_rejects_by_their_halves(scores, threshold, num_chunks):
    plan = released_rule(scores, threshold, num_chunks, 2, Random(0))
    ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:num_chunks]
    if max(scores) < threshold:
        assert plan == "no critical chunk"
    elif any(scores[i] < threshold for i in ranked):
        assert plan == "a kept chunk below the threshold"
    elif len(ranked) < 2:
        assert plan == "fewer than two chunks"
    else:
        half = len(ranked) // 2
        assert plan.chosen == plan.prompt == sorted(ranked)
        assert list(plan.rejected) == [("half", sorted(ranked[:half])), ("wrong", sorted(ranked[len(ranked) - half :]))]


@pytest.mark.parametrize("num_rejected", [1, 2])
def test_the_released_rule_makes_as_many_rejected_answers_as_are_asked_for(num_rejected):
    plan = released_rule([5, 4, 3, 3, 9, 4, 0], 3, 6, num_rejected, Random(0))
    assert [kind for kind, _ in plan.rejected] == ["half", "wrong"][:num_rejected]
