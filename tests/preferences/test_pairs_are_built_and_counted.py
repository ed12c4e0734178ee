"""Proves that pairs hold what they promise and that the report says where every row and every answer went.

A reader that answers by what its prompt says keeps a record; the report is recounted from that record and from the
pairs, with plain sets and loops.
"""

from itertools import islice

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from support.pair_toys import Reader, build, build_by_keywords, toy_rows
from support.reference import refused

from minilib.evals.answers import contains_answer
from minilib.preferences.build import plain_prompt
from minilib.preferences.filtering import QualityReport, judge


def test_a_pair_is_a_prompt_with_the_place_and_distractors_the_right_answer_and_wrong_ones():
    rows = toy_rows(30)
    pairs = list(build(rows))
    assert len(pairs) > 20
    for pair in pairs:
        row = rows[pair["row"]]
        (fact,) = (f for f in row["facts"] if f["name"] in row["question"])
        assert pair["chosen"] == row["answer"] == pair["answer"] == fact["value"]
        assert pair["prompt"] == "".join(pair["chunks"]).strip() + "\n\n" + row["question"]
        assert all(chunk in row["context"] for chunk in pair["chunks"])
        assert len(pair["chunks"]) == len(pair["scores"]) == 4
        assert max(pair["scores"]) > 0 == min(pair["scores"])
        assert len(pair["rejected"]) == len(pair["kinds"]) == 2
        assert not any(row["answer"] in answer for answer in pair["rejected"])


def test_a_pair_longer_than_the_model_reads_is_skipped_and_counted():
    rows = toy_rows(30)
    lengths = {pair["row"]: _longest(pair) for pair in build(rows)}
    most = sorted(lengths.values())[len(lengths) // 2]
    pairs = build(rows, max_tokens=most)
    kept = [pair["row"] for pair in pairs]
    assert kept == [row for row, length in lengths.items() if length <= most]
    assert 0 < len(kept) < len(lengths)
    assert pairs.report.skipped["longer than the model reads"] == len(lengths) - len(kept)
    assert pairs.report.rows == pairs.report.pairs + sum(pairs.report.skipped.values())


def test_a_prompt_longer_than_the_model_reads_is_skipped_before_anybody_answers():
    rows, reader = toy_rows(3), Reader()
    rows[1]["question"] += " Say it at once." * 100
    pairs = build(rows, reader, max_tokens=300)
    assert [pair["row"] for pair in pairs] == [0, 2]
    assert not any("at once" in prompt for prompt in reader.prompts)
    assert pairs.report.skipped == {"longer than the model reads": 1}


def _longest(pair):
    """Words of the prompt and its longest answer, with one token at either end."""
    return len(pair["prompt"].split()) + max(len(text.split()) for text in [pair["chosen"], *pair["rejected"]]) + 2


def test_who_answers_reads_the_chunks_of_the_plan():
    reader = Reader()
    (pair,) = build(toy_rows(1, kept=3), reader)
    chosen, mixed, irrelevant = reader.prompts[:3]
    name = pair["question"].split()[2]
    assert name not in irrelevant.split("\n\n")[0]
    assert 0 < mixed.count(f"{name} ") < chosen.count(f"{name} ")
    assert pair["rejected"][0] == Reader.answer(mixed)
    assert pair["kinds"][0] == "mixed"


def recount(rows, reader, pairs, num_rejected=2):
    """Counts from the record: all answers are known, chosen ones by the rows, rejected ones as the rest."""
    kept = [answer for pair in pairs for answer in pair["rejected"]]
    wrong = sum(pair["answer"] not in pair["chosen"] for pair in pairs)
    right = sum(pair["answer"] in answer for pair in pairs for answer in pair["rejected"])
    same = sum(answer == pair["chosen"] for pair in pairs for answer in pair["rejected"])
    assert len(kept) == num_rejected * len(pairs)
    return {"chosen": len(pairs), "wrong": wrong, "rejected": len(kept), "identical": same, "right": right}


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("kept", [1, 3])
def test_the_counts_of_the_report_match_a_recount(clean, kept):
    rows, reader = toy_rows(40, kept=kept), Reader()
    rows[3]["question"] = "What does Atlantis keep?"  # no chunk is critical
    only = {"context": "Lisbon keeps tea.", "question": "What does Lisbon keep?", "answer": "tea"}
    rows[5] = only | {"facts": [{"name": "Lisbon", "value": "tea"}]}  # and here every chunk is
    rows[7]["answer"] = "pearls"  # the reader will be wrong, and right where it guesses
    pairs = build(rows, reader, clean=clean)
    found = list(pairs)
    report = pairs.report
    assert report.rows == 40
    assert report.pairs == len(found)
    assert report.skipped["no critical chunk"] == 1
    assert report.skipped["no irrelevant chunk"] == 1
    assert report.rows == report.pairs + sum(report.skipped.values())
    assert {k: v for k, v in vars(report.kept).items() if k != "near"} == recount(rows, reader, found)
    assert report.answered.chosen == 38
    assert report.answered.wrong == 1
    assert report.answered.rejected == len(reader.answers) - 38
    assert report.answered.rejected == report.kept.rejected + sum(report.dropped.values())
    if kept == 1:  # a mixture then holds the only place, and its answer is right
        assert bool(report.dropped) == clean
        assert bool(report.kept.right) == (not clean)


def say(*answers):
    """A model that says these answers, whatever it is asked."""
    said = iter(answers)
    return lambda prompts: [next(said) for _ in prompts]


def test_dropped_answers_are_counted_by_their_reasons_and_asked_for_anew():
    # First the chosen answer, then two rejected ones, then as many as are lacking, round by round.
    model = say("it is 7", *(" ", "It is the 7!"), *("7, of course", "is it 5"), *("Is it 5?",), *("no",))
    pairs = build(toy_rows(1, words=400), model, is_right=lambda answer, row: "7" in answer, tries=4)
    (pair,) = pairs
    assert pair["rejected"] == ["is it 5", "no"]
    assert pair["kinds"] == ["irrelevant", "irrelevant"]
    counts = {"empty": 1, "same as the chosen answer": 1, "right": 1, "repeats a rejected answer": 1}
    assert pairs.report.dropped == counts
    answered = {"chosen": 1, "wrong": 0, "rejected": 6, "identical": 1, "near": 1, "right": 2}
    assert vars(pairs.report.answered) == answered


def test_a_prompt_is_given_up_after_so_many_tries_and_counted():
    pairs = build(toy_rows(1, words=400), say("a", *("no", "no"), *("no",)), tries=2)
    assert list(pairs) == []
    assert pairs.report.skipped == {"too few rejected answers": 1}
    assert pairs.report.dropped == {"repeats a rejected answer": 2, "its prompt was skipped": 1}


def test_empty_and_by_wish_wrong_chosen_answers_skip_their_prompts():
    pairs = build(toy_rows(1), say("  "))
    assert list(pairs) == []
    assert pairs.report.skipped == {"empty chosen answer": 1}
    pairs = build(toy_rows(1), say("pearls"), require_right=True)
    assert list(pairs) == []
    assert pairs.report.skipped == {"wrong chosen answer": 1}
    (pair,) = build(toy_rows(1), say("pearls", "corals", "jewels"))
    assert pair["chosen"] == "pearls"


def test_near_duplicates_are_judged_by_their_share_of_common_words():
    long = "one two three four five six seven eight nine ten"
    verdict = judge(long.replace("ten", "eleven"), long, [], right=False, similarity=0.9)
    assert (verdict.near, verdict.identical, verdict.fault) == (True, False, "near-duplicate of the chosen answer")
    assert judge(long.replace("ten", "eleven"), long, [], right=False, similarity=0.91).fault is None
    assert judge("amber", "silk", ["Amber."], right=False, similarity=0.9).fault == "repeats a rejected answer"
    assert judge("+", "-", [], right=False, similarity=0.9).fault is None


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("It is Amber.", "amber", True),
        ("the Tower of a London", "Tower of London", True),
        ("chamber", "amber", False),
        ("amber", ["silk", "Amber"], True),
        ("silk and amber", "amber and silk", False),
        ("the sign is +", "+", True),
        ("A", "A", True),
        ("Answer: B", "A", False),
        ("", "amber", False),
    ],
)
def test_an_answer_is_right_if_an_accepted_one_stands_in_it_word_for_word(answer, gold, right):
    assert contains_answer(answer, {"answer": gold}) == right


@given(st.integers(1, 7), st.integers(1, 4), st.sampled_from([1, 3]))
def test_pairs_do_not_depend_on_the_size_of_a_batch(batch_size, num_rejected, kept):
    rows = toy_rows(12, kept=kept)
    whole, parts = (build(rows, batch_size=size, num_rejected=num_rejected) for size in (12, batch_size))
    assert list(whole) == list(parts)
    assert whole.report == parts.report


def test_another_seed_makes_other_prompts_from_the_same_rows():
    rows = toy_rows(20, words=400)
    first, second, again = (list(build(rows, seed=seed)) for seed in (0, 1, 0))
    assert first == again
    assert first != second


def test_every_row_draws_for_itself():
    (row,) = toy_rows(1, words=400)
    assert len({pair["prompt"] for pair in build([row] * 10)}) > 5


def test_the_released_rule_trains_on_what_the_chosen_answer_read():
    reader = Reader()
    pairs = list(build(toy_rows(30, kept=3), reader, rule="released", clean=False, num_chunks=2, threshold=1))
    assert pairs
    assert all(pair["prompt"] in reader.prompts for pair in pairs)
    assert {tuple(pair["kinds"]) for pair in pairs} == {("half", "wrong")}


def test_each_rule_brings_its_own_defaults():
    long = "\n".join(f"word{k}" for k in range(3000))
    row = {"context": long, "question": "What does Lisbon keep?", "answer": "a"}
    for rule, settings in {"paper": (512, 16), "released": (1024, 6)}.items():
        pairs = build_by_keywords(
            [row], say("x", "y", "z"), scorer=lambda c, q, r: 3 + 4 * ("word0" in c), rule=rule, progress=False
        )
        (pair,) = pairs
        assert len(pair["chunks"][0].split()) == settings[0]
        assert len(pair["chunks"]) == min(settings[1], -(-3000 // settings[0]))


def test_critical_chunks_beyond_n_are_counted():
    pairs = build(toy_rows(1, words=400, facts=6, kept=6), say("a", "b", "c"), num_chunks=2)
    (pair,) = pairs
    assert len(pair["chunks"]) == 2
    assert pairs.report.left_out >= 3


def test_tables_streams_iterators_and_lists_give_the_same_pairs():
    rows = toy_rows(6)
    table = Dataset.from_list(rows)
    expected = list(build(rows))
    for source in (table, table.to_iterable_dataset(), iter(rows), (row for row in rows)):
        assert list(build(source)) == expected


def test_an_endless_stream_is_read_no_further_than_is_asked_for():
    read = []

    def endless():
        k = 0
        while True:
            read.append(k)
            yield toy_rows(k + 1)[k]
            k += 1

    assert len(list(islice(build(endless(), batch_size=4), 3))) == 3
    assert len(read) == 4


def test_prompts_of_your_own_are_used_for_answering_and_for_training():
    reader = Reader()
    (pair,) = build(toy_rows(1), reader, prompt_fn=lambda chunks, question: f"<{plain_prompt(chunks, question)}>")
    assert pair["prompt"].startswith("<")
    assert all(prompt.startswith("<") for prompt in reader.prompts)


def test_without_a_judge_nothing_is_said_of_right_and_wrong():
    rows = [{"context": row["context"], "question": row["question"], "facts": row["facts"]} for row in toy_rows(9)]
    pairs = build(rows, is_right=None)
    assert pairs.run().pairs > 0
    shares = pairs.report.shares()
    assert shares["right negatives"] is None
    assert shares["wrong positives"] is None
    assert shares["identical pairs"] == 0
    assert "unknown" in str(pairs.report)


def test_the_report_prints_its_counts_and_survives_a_round_trip():
    pairs = build(toy_rows(20))
    text = str(pairs.run())
    assert f"pairs built {pairs.report.pairs:>8}".split() == text.splitlines()[1].split()
    assert "rejected answers dropped: same as the chosen answer" in text
    assert QualityReport.from_dict(pairs.report.to_dict()) == pairs.report
    share = pairs.report.shares("answered")["right negatives"]
    assert share == pairs.report.answered.right / pairs.report.answered.rejected > 0
    assert f"{share:.1%}" in text


def test_a_list_can_be_iterated_over_twice_and_an_iterator_cannot():
    pairs = build(toy_rows(5))
    assert list(pairs) == list(pairs)
    assert pairs.report.rows == 5
    pairs = build(iter(toy_rows(5)))
    list(pairs)
    refused(ValueError, "examples is an iterator that has been read", lambda: list(pairs))
