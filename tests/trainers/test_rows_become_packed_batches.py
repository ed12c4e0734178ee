"""Rows of text become token rows whose chunks are found again, packed batches, and positions that depend on the row.

The judge of the places is a walk over the characters: a token belongs where its first visible character stands. Real
words come from the tokenizer of the tiny model, whose tokens begin with the blank before them.
"""

from functools import partial

import pytest
import torch
from datasets import Dataset, IterableDataset
from hypothesis import given
from hypothesis import strategies as st
from support.logo_toys import make_trainer, toy_rows, toy_tokenizer
from support.reference import refused
from torch.utils.data import DataLoader

from minilib.longcontext import Packed, pack_answers, stack_packed
from minilib.models.tiny_lm import tiny_lm
from minilib.trainers.collator import PairCollator, TokenRow, as_packed, draw_positions, number_rows, pack_rows

TEXT = "Lisbon keeps amber. Oslo keeps salt and silk.\n\nCairo keeps tea."
CHUNKS = ["Lisbon keeps amber.", " Oslo keeps salt and silk.\n\n", "Cairo keeps tea."]
ROW = {
    "prompt": f"{TEXT}\n\nWhat does Oslo keep?",
    "chosen": "salt",
    "rejected": ["amber", "tea and coffee", "wool"],
    "chunks": CHUNKS,
    "number": 7,
}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_lm()[1]


def tokens(tokenizer, row=ROW, **settings):
    return PairCollator(tokenizer, with_chunks=True, **settings).tokenize(row)


def places(tokenizer, row):
    """Number of tokens before, in each of, and behind the chunks, by walking over the characters of the prompt."""
    prompt, starts, end = row["prompt"], [], 0
    for chunk in row["chunks"]:
        starts.append(prompt.index(chunk.strip(), end))
        end = starts[-1] + len(chunk.strip())
    owners, place = [], 0  # of every character: 0 head, 1 .. N chunks, N + 1 tail
    for k in range(len(prompt)):
        place = len(starts) + 1 if k == end else starts.index(k) + 1 if k in starts else place
        owners.append(place)
    counts = [0] * (len(starts) + 2)
    for begin, _ in tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]:
        blanks = len(prompt[begin:]) - len(prompt[begin:].lstrip())
        counts[owners[min(begin + blanks, len(prompt) - 1)]] += 1
    return counts[0], counts[1:-1], counts[-1]


# Where chunks lie


def test_a_prompt_falls_apart_into_head_chunks_and_tail(tokenizer):
    row = tokens(tokenizer)
    head, chunks, tail = row.sizes
    assert head == 0
    assert sum(chunks) + tail == len(row.prompt)
    ids, parts = iter(row.prompt), []
    for size in (*chunks, tail):
        parts.append(tokenizer.decode([next(ids) for _ in range(size)]).strip())
    assert parts == [chunk.strip() for chunk in CHUNKS] + ["What does Oslo keep?"]
    assert row.sizes == places(tokenizer, ROW)


@pytest.mark.parametrize("prefix", ["", "Read this.\n\n", "Oslo keeps salt. ", "   "])
@pytest.mark.parametrize("question", ["", " What?", "\n\nWhat does Lisbon keep?   "])
@pytest.mark.parametrize("glue", ["", " ", "\n"])
def test_the_sizes_are_those_of_a_walk_over_the_characters(tokenizer, prefix, question, glue):
    row = {**ROW, "prompt": prefix + glue.join(CHUNKS) + question}
    found = tokens(tokenizer, row)
    assert found.sizes == places(tokenizer, row)
    assert found.prompt == tokenizer.encode(row["prompt"])


def test_a_token_belongs_to_the_chunk_in_which_it_begins(tokenizer):
    # "Lisbon" is one token; cut in two, it belongs to the first piece, and the second piece has what is left.
    row = {**ROW, "chunks": ["Lis", "bon keeps amber."]}
    assert tokens(tokenizer, row).sizes[:2] == (0, [1, 3])
    row = {**ROW, "chunks": ["Li", "sb", "on keeps amber."]}
    assert tokens(tokenizer, row).sizes[:2] == (0, [1, 3])  # a piece without a token of its own is left out


def test_the_blank_before_a_word_goes_with_the_word(tokenizer):
    cut_behind = {**ROW, "chunks": ["Lisbon keeps amber. ", "Oslo keeps salt"]}
    cut_before = {**ROW, "chunks": ["Lisbon keeps amber.", " Oslo keeps salt"]}
    assert tokens(tokenizer, cut_behind).sizes == tokens(tokenizer, cut_before).sizes
    assert tokens(tokenizer, cut_before).sizes[:2] == (0, [4, 3])


def test_equal_chunks_are_found_one_after_the_other():
    row = {**ROW, "prompt": "w1 w2 w1 w2 w3 w1 w2", "chunks": ["w1 w2", "w1 w2", "w1 w2"]}
    assert tokens(toy_tokenizer(), row).sizes == (0, [2, 3, 2], 0)  # w3 stands between chunks: it is of the one before


# Special tokens and answers


@pytest.mark.parametrize("with_chunks", [True, False])
def test_bos_goes_before_the_prompt_once_and_is_no_part_of_the_first_chunk(with_chunks):
    tokenizer = toy_tokenizer(bos=True)
    plain = {**ROW, "prompt": "w1 w2 w3 w4", "chunks": ["w1 w2", "w3"], "chosen": "w5", "rejected": ["w6"]}
    for prompt in ("w1 w2 w3 w4", "<bos> w1 w2 w3 w4"):  # as a chat template writes it
        row = PairCollator(tokenizer, with_chunks=with_chunks).tokenize({**plain, "prompt": prompt})
        assert row.prompt == tokenizer.convert_tokens_to_ids(["<bos>", "w1", "w2", "w3", "w4"])
        assert row.sizes == ((1, [2, 1], 1) if with_chunks else None)
        assert row.answers[0] == tokenizer.convert_tokens_to_ids(["w5", "<eos>"])


def test_an_answer_continues_its_prompt_as_given_and_ends_with_eos(tokenizer):
    for end, begin, separator in (("", " ", None), ("", "", " "), ("\n", "", ""), (" ", "", ""), ("", "\n  ", None)):
        changed = {"prompt": ROW["prompt"] + end, "chosen": begin + "salt", "separator": separator}
        row = tokens(tokenizer, {**ROW, **changed})
        got = tokenizer.decode(row.prompt + row.answers[0][:-1])
        assert got.removeprefix(" ") == changed["prompt"] + (separator or "") + changed["chosen"]
        assert all(answer[-1] == tokenizer.eos_token_id and answer.count(answer[-1]) == 1 for answer in row.answers)
    row = tokens(tokenizer, {**ROW, "separator": " "})
    whole = [f"{ROW['prompt']} {text}" for text in (ROW["chosen"], *ROW["rejected"])]
    assert [row.prompt + answer[:-1] for answer in row.answers] == [tokenizer.encode(text) for text in whole]


def test_an_answer_that_brings_its_end_along_gets_no_second_one(tokenizer):
    row = tokens(tokenizer, {**ROW, "chosen": " salt<eos>"})
    assert row.answers[0].count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize(("wanted", "kept"), [(None, 3), (2, 2), (0, 0)])
def test_the_first_m_rejected_answers_are_taken(tokenizer, wanted, kept):
    everything, row = tokens(tokenizer), tokens(tokenizer, num_rejected=wanted)
    assert row.answers == everything.answers[: 1 + kept]


# Positions and packs


def draw(row, **changed):
    head, chunks, tail = row.sizes
    settings = {"target": 200, "mode": "mixed", "at_end": False, "seed": "0/0", **changed}
    return draw_positions(row.number, (head, tail, max(map(len, row.answers)), *chunks), **settings)


@given(
    st.sampled_from(["mixed", "continuous", "sparse", "pose", "random"]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
    st.integers(0, 99),
)
def test_positions_increase_below_the_target_and_all_answers_start_at_one_place(mode, at_end, vary, seed, number):
    rows = [TokenRow(number + k, [5] * 30, [[6] * 4, [7] * 2, [8] * 9], (3, [6, 4, 10], 7)) for k in range(2)]
    settings = {"target": 150, "mode": mode, "at_end": at_end, "vary": vary, "seed": str(seed)}
    batch = as_packed(pack_rows(rows), partial(draw_positions, **settings))
    for positions, segments in zip(batch.position_ids, batch.segment_ids):
        prompt = positions[segments == 0]
        assert (prompt.diff() > 0).all()
        starts = {int(positions[segments == a][0]) for a in (1, 2, 3)}
        assert starts == {int(prompt[-1]) + 1}
        assert positions[segments >= 0].max() < 150


def test_positions_depend_on_seed_step_and_row_and_on_nothing_else(tokenizer):
    row = tokens(tokenizer)
    first = draw(row)
    torch.manual_seed(99)
    assert torch.equal(draw(row), first)
    for other in (draw(row, seed="1/0"), draw(row, seed="0/1"), draw(row._replace(number=8))):
        assert not torch.equal(other, first)


def test_a_trainer_draws_anew_in_every_step_whoever_shares_the_batch_and_evaluates_on_fixed_positions():
    trainer = make_trainer(target_length=100)
    rows = [trainer.train_dataset[k] for k in range(3)]

    def prompts(rows, mode="train"):
        batch = trainer.pack(trainer.data_collator(rows), mode)
        return [p[s == 0].tolist() for p, s in zip(batch.position_ids, batch.segment_ids)]

    first, fixed = prompts(rows), prompts(rows, "eval")
    assert first == prompts(rows[::-1])[::-1] == [prompts([row])[0] for row in rows]
    trainer.state.global_step = 1
    assert all(a != b for a, b in zip(prompts(rows), first))
    assert prompts(rows, "eval") == fixed


def test_padding_needs_no_token_of_the_tokenizer():
    tokenizer = toy_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})  # beyond the rows of a model that nobody resized
    assert tokenizer.pad_token_id >= 61
    rows = [{**row, "number": k} for k, row in enumerate(toy_rows(4))]
    batch = PairCollator(tokenizer)(rows)
    assert (batch["segment_ids"] < 0).any()
    assert batch["input_ids"].max() < 61
    tokenizer.pad_token = tokenizer.eos_token = None
    without = PairCollator(tokenizer)(rows)
    assert without["input_ids"].max() < 61
    assert len(without["labels"]) == len(batch["labels"]) - 4 * 3  # no end is known


def test_any_loader_can_move_a_collated_batch_and_padding_keeps_counting():
    trainer = make_trainer(target_length=100)
    loader = DataLoader(trainer.train_dataset, batch_size=3, collate_fn=trainer.data_collator, num_workers=1)
    for inputs in loader:
        assert all(isinstance(value, torch.Tensor) for value in inputs.values())
        assert set(inputs) == {*Packed._fields, "number", "sizes"}
        rows = [trainer.data_collator.tokenize(trainer.train_dataset[k]) for k in inputs["number"].tolist()]
        packs = [pack_answers(row.prompt, row.answers, draw(row, target=100)) for row in rows]
        got = as_packed(inputs, partial(draw_positions, target=100, mode="mixed", seed="0/0"))
        for one, other in zip(got, stack_packed(packs), strict=True):
            assert torch.equal(one, other)


def test_without_a_target_positions_are_plain_and_chunks_are_not_asked_for():
    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in toy_rows(4)]
    trainer = make_trainer(rows)
    batch = trainer.pack(trainer.data_collator([trainer.train_dataset[0]]))
    prompt = batch.position_ids[batch.segment_ids == 0]
    assert torch.equal(prompt, torch.arange(len(prompt)))


# Tables, streams, and what is wrong with rows


@pytest.mark.parametrize("kind", [list, Dataset.from_list, lambda rows: Dataset.from_list(rows).to_iterable_dataset()])
def test_lists_tables_and_streams_give_the_same_numbered_rows(kind):
    rows = toy_rows(5)
    numbered = number_rows(kind(rows), "train_dataset", with_chunks=True)
    assert [row["number"] for row in numbered] == [0, 1, 2, 3, 4]
    collate = PairCollator(toy_tokenizer(), with_chunks=True)
    assert [collate.tokenize(row) for row in numbered] == [
        collate.tokenize({**row, "number": k}) for k, row in enumerate(rows)
    ]
    got, expected = (
        collate(list(numbered)),
        pack_rows([collate.tokenize({**r, "number": k}) for k, r in enumerate(rows)]),
    )
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_several_evaluation_sets_are_numbered_by_name():
    numbered = number_rows({"near": toy_rows(2), "far": toy_rows(3)}, "eval_dataset", with_chunks=True)
    assert [len(part) for part in numbered.values()] == [2, 3]
    bad = {"near": toy_rows(2), "far": [{}]}
    refused(ValueError, "eval_dataset['far'] has no 'prompt' in row 0", lambda: make_trainer(eval_rows=bad))


def stream(rows):
    return IterableDataset.from_generator(lambda: iter(rows))


BAD_ROWS = {
    "no prompt": ({"prompt": None}, ValueError, "train_dataset has no 'prompt' in row 2: fill the field"),
    "no chosen": ({"chosen": ""}, ValueError, "train_dataset has no 'chosen' in row 2"),
    "no rejected": ({"rejected": []}, ValueError, "train_dataset has no 'rejected' in row 2"),
    "no chunks": ({"chunks": []}, ValueError, "train_dataset has no 'chunks' in row 2: give the pieces"),
    "chunks are a text": ({"chunks": "w1 w2"}, TypeError, "train_dataset has one text as 'chunks' in row 2"),
    "a number": ({"chosen": 7}, ValueError, "row 2 has 7 as chosen: give a text that is not empty"),
    "a nested number": ({"rejected": ["w1", 7.5]}, ValueError, "row 2 has 7.5 as rejected[1]"),
}


@pytest.mark.parametrize("make", [list, stream], ids=["list", "stream"])
@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_row_that_lacks_a_field_is_named_at_once_and_in_a_stream_when_it_comes(case, make):
    changed, error, words = BAD_ROWS[case]
    rows = toy_rows(4)
    rows[2] |= changed
    if make is list:
        refused(error, words, lambda: make_trainer(rows, target_length=100))
    else:
        trainer = make_trainer(stream(rows), target_length=100, args={"per_device_train_batch_size": 1})
        refused(error, words, trainer.train)


BAD_TOKENS = {
    "a blank answer": ({"chosen": "  "}, ValueError, "row 7 has '  ' as chosen: give a text that is not empty"),
    "an empty rejected answer": ({"rejected": ["w1", ""]}, ValueError, "row 7 has '' as rejected[1]"),
    "a number": ({"prompt": 5}, ValueError, "row 7 has 5 as prompt"),
    "a foreign chunk": ({"chunks": ["w9 w9 w9"]}, ValueError, "row 7 has 'w9 w9 w9' as chunks[0], which its prompt"),
    "chunks in disorder": ({"chunks": ["w3", "w1"]}, ValueError, "row 7 has 'w1' as chunks[1], which its prompt"),
    "a blank chunk": ({"chunks": ["w1", " "]}, ValueError, "row 7 has ' ' as chunks[1]"),
    "too few answers": ({"rejected": ["w1"]}, ValueError, "row 7 has 1 rejected answers and num_rejected is 2"),
}


@pytest.mark.parametrize("case", BAD_TOKENS)
def test_a_row_that_cannot_be_read_is_named_with_its_field(case):
    changed, error, words = BAD_TOKENS[case]
    row = {"prompt": "w1 w2 w3", "chosen": "w1", "rejected": ["w1", "w2"], "chunks": ["w1", "w3"], "number": 7}
    refused(error, words, lambda: tokens(toy_tokenizer(), row | changed, num_rejected=2))


def test_rows_with_unequal_numbers_of_answers_are_named():
    trainer = make_trainer([*toy_rows(2, m=2), *toy_rows(2, m=3)])
    rows = [trainer.train_dataset[k] for k in range(4)]
    refused(
        ValueError, "row 2 has 3 rejected answers and row 0 2: set num_rejected", lambda: trainer.data_collator(rows)
    )


def test_positions_that_do_not_fit_name_the_row():
    row = TokenRow(4, [5] * 30, [[6] * 4], (3, [16, 4], 7))
    refused(ValueError, "row 4: target is 20 and prompt and answer have 34", lambda: draw(row, target=20))
    refused(ValueError, "row 4: lengths[0] is 16 and a slot holds 13", lambda: draw(row, target=40))


def test_data_of_another_kind_is_refused():
    refused(ValueError, "train_dataset is empty", lambda: make_trainer([]))
    refused(TypeError, "train_dataset has a str as row 0: give dicts with prompt", lambda: make_trainer(["w1"]))
    refused(TypeError, "train_dataset is a generator: give a list", lambda: make_trainer(row for row in toy_rows(2)))


def test_a_tokenizer_that_cannot_tell_places_is_refused_only_where_they_are_needed():
    class Slow:
        bos_token, eos_token_id = None, 1

        def encode(self, text, add_special_tokens):
            return [len(word) for word in text.split()]

    refused(ValueError, "processing_class is a Slow", lambda: PairCollator(Slow(), with_chunks=True))
    assert PairCollator(Slow()).tokenize({**ROW, "prompt": "w1 w2"}).prompt == [2, 2]
