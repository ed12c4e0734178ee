"""Pairs about haystacks teach what they should: the chosen answer is right, the rejected ones are wrong and different.

The committed tiny model makes them in seconds; forty questions show every promise.
"""

import pytest
from support.logo_toys import make_trainer
from support.reference import refused

from minilib.data.running_text import token_counter
from minilib.evals.longcontext import is_right
from minilib.models.tiny_lm import WINDOW, tiny_lm
from minilib.preferences import haystack_pairs as haystacks
from minilib.preferences.haystack_pairs import (
    CHUNK,
    CHUNKS,
    LENGTH,
    at_full_length,
    chunks_as_prompt,
    first_pairs,
    haystack_pairs,
    long_questions,
)

ROWS = 40


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


def build(lm, rows=ROWS, **settings):
    return haystack_pairs(*lm, rows=rows, progress=False, **settings)


@pytest.fixture(scope="module")
def built(lm):
    pairs = build(lm)
    return list(pairs), pairs.report, long_questions(ROWS, lm[1])


def test_questions_are_long_and_every_fourth_asks_for_two_details(lm):
    questions = long_questions(12, lm[1])
    assert [row["kind"] for row in questions] == ["single", "single", "single", "multi"] * 3
    assert all(LENGTH - 20 < row["tokens"] <= LENGTH for row in questions)
    assert long_questions(6, lm[1]) == questions[:6]
    assert long_questions(6, lm[1], seed=1) != questions[:6]
    asked = {row["context"] for seed in range(3) for row in long_questions(12, lm[1], seed=seed)}
    assert len(asked) == 36  # no haystack twice, whatever the seed


def test_chosen_answers_are_right_and_rejected_ones_wrong_and_different(built):
    pairs, report, questions = built
    assert len(pairs) == report.pairs > ROWS / 4
    for pair in pairs:
        question = questions[pair["row"]]
        assert is_right(pair["chosen"], question)
        assert len(set(pair["rejected"])) == 2
        assert not any(is_right(answer, question) for answer in pair["rejected"])


def test_every_question_that_is_left_out_is_counted(built):
    pairs, report, _ = built
    assert report.rows == ROWS
    assert sum(report.skipped.values()) == ROWS - len(pairs)


def test_the_prompt_holds_its_chunks_in_order_and_an_answer_and_fits_the_window(built, lm):
    pairs, _, questions = built
    count = token_counter(lm[1])
    for pair in pairs:
        assert pair["prompt"] == chunks_as_prompt(pair["chunks"], pair["question"])
        assert 1 < len(pair["chunks"]) <= CHUNKS
        assert all(count(chunk) <= CHUNK for chunk in pair["chunks"])
        assert count(pair["prompt"]) + 8 <= WINDOW
        context = questions[pair["row"]]["context"]
        places = [context.index(chunk.strip()) for chunk in pair["chunks"]]
        assert places == sorted(places)
        assert any(fact["value"] in pair["prompt"] for fact in questions[pair["row"]]["facts"] if fact["asked"])


def test_the_trainer_takes_them(built, lm):
    pairs = built[0]
    trainer = make_trainer(pairs, model=lm[0], tokenizer=lm[1], num_rejected=2, target_length=1000)
    batch = trainer.pack(trainer.data_collator([trainer.train_dataset[k] for k in range(len(pairs))]))
    assert batch.position_ids[batch.segment_ids >= 0].max() < 1000
    for number, pair in enumerate(pairs):
        head, sizes, tail = trainer.data_collator.tokenize(pair | {"number": number}).sizes
        assert len(sizes) == len(pair["chunks"])
        assert max(sizes) <= CHUNK
        assert head == 0
        assert tail > 0


def test_the_same_pairs_come_out_again_and_other_ones_for_another_seed(built, lm):
    batch = 32  # answers are drawn for whole batches of questions
    assert list(build(lm, rows=batch)) == [pair for pair in built[0] if pair["row"] < batch]
    prompts = {pair["prompt"] for pair in build(lm, rows=batch, seed=1)}
    assert prompts
    assert prompts.isdisjoint(pair["prompt"] for pair in built[0])


def test_interrupted_between_batches_the_bytes_are_those_of_a_whole_run(built, lm, tmp_path):
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    build(lm, path=whole).run()
    for _ in build(lm, path=broken):
        break  # after the first of two batches
    assert 0 < broken.stat().st_size < whole.stat().st_size
    assert list(build(lm, path=broken)) == built[0]
    assert broken.read_bytes() == whole.read_bytes()


def test_at_full_length_the_prompt_holds_the_whole_haystack(built, lm):
    pairs, _, questions = built
    for long, pair in zip(at_full_length(pairs, questions), pairs, strict=True):
        context = questions[pair["row"]]["context"]
        assert long["prompt"].startswith(context)
        assert pair["question"] in long["prompt"]
        assert long["chunks"] == [context]
        assert [long[name] for name in ("chosen", "rejected")] == [pair[name] for name in ("chosen", "rejected")]
    assert len(lm[1].encode(long["prompt"])) > 3 * WINDOW


def test_the_first_pairs_are_as_many_as_asked_for_or_refused(built):
    assert first_pairs(iter(built[0]), 5) == built[0][:5]
    refused(ValueError, "count is 99 and only", lambda: first_pairs(iter(built[0]), 99))


@pytest.mark.parametrize(("length", "at_once"), [(400, 32), (LENGTH, 32), (8 * LENGTH, 4), (100 * LENGTH, 1)])
def test_the_longer_the_haystacks_the_fewer_are_lost_by_an_interrupt(length, at_once, lm, monkeypatch):
    configs = []
    monkeypatch.setattr(haystacks, "long_questions", lambda *_, **__: [])
    monkeypatch.setattr(haystacks, "build_pairs", lambda _rows, _answer, config, **_: configs.append(config))
    build(lm, length=length)
    assert configs[0].batch_size == at_once
