"""Numbers, names and scripts: what counts as the same word, and what only looks like a part of another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilib.evals.answers import answer_scores, contains, contains_answer, ends_unbroken, plain_words, split_words
from minilib.preferences.build import build_pairs
from minilib.preferences.chunking import chunk_text
from minilib.preferences.filtering import judge
from minilib.preferences.importance import exact_entities, rare_words

WRONG = [  # gold, answer
    ("5", "5.7 million"),
    ("12", "12,000"),
    ("-5", "5"),
    ("5", "-5"),
    ("5", "it fell to −5 degrees"),
    ("C++", "C"),
    ("C", "C++ and C#"),
    ("C#", "C"),
    ("NET", ".NET"),
    ("A", "A+"),
    ("5", "0.5"),
    ("5", ".5"),
    ("5", "5,7 Millionen"),
    ("5", "5 million people"),
    ("5", "5.7m"),
    ("5", "the 5th"),
    ("1", "1/2"),
    ("10", "10:30"),
    ("3.1", "Python 3.10"),
    ("1.2", "version 1.2.3"),
    ("12", "1.234.567,12"),
    ("105", "10⁵"),
    ("10", "10⁵"),
    ("51", "5½"),
    ("$5", "5"),
    ("€5", "$5"),
    ("5%", "5"),
    ("5 km", "5 miles"),
    ("2", "H2O"),
    ("5", "5万"),
    ("北京", "北平和东京"),
    ("हिन्दी", "हिन्दू"),
    ("Zürich", "Zurich"),
    ("5", "5 000"),
    ("1", "1 000 000"),
    ("000", "1 000"),
    ("3", "minus 3"),
    ("3", "negative 3"),
    ("A", "A-"),
    ("2", "x²"),
    ("5 km", "5 km²"),
    ("one", "twenty-one"),
    ("twenty", "twenty one"),
    ("£5", "EUR 5"),
]
RIGHT = [
    ("5", "It is 5."),
    ("5", "(5)"),
    ("5.7", "about 5.7, not more"),
    ("12,000", "12000"),
    ("12000", "12,000 people"),
    ("1,234,567.5", "1.234.567,5"),
    ("1'000", "1,000"),
    ("-5", "−5 °C"),
    ("-5", "答案是-5"),
    ("5", "+5"),
    ("5", "pages 3 - 5"),
    ("5", "3-5"),
    ("2020", "on 2020-05-12"),
    ("2020", "12.05.2020"),
    ("2020", "5/12/2020"),
    ("2", "1,2,3"),
    ("5 million", "5 million people"),
    ("$5", "5 $"),
    ("$5", "it costs 5 dollars"),
    ("5%", "5 percent"),
    ("5 km", "5km away"),
    ("5", "5 km"),
    ("5", "５"),
    ("5", "٥"),
    ("2008", "2008年"),
    ("C++", "written in C++."),
    ("C++", "C++17"),
    ("c#", "It is C#, of course"),
    (".NET", "on .NET"),
    ("北京", "答案是北京市"),
    ("北京", "北京"),
    ("東京タワー", "それは東京タワーです"),
    ("カタカナ", "ｶﾀｶﾅ"),
    ("กรุงเทพ", "เมืองหลวงคือกรุงเทพมหานคร"),
    ("서울", "정답은 서울입니다"),
    ("हिन्दी", "यह हिन्दी है"),
    ("Zürich", "in Zu\u0308rich"),
    ("Zu\u0308rich", "in ZÜRICH"),
    ("Straße", "STRASSE"),
    ("ABC", "ＡＢＣ"),
    ("fish", "ﬁsh"),
    ("O'Neill", "O’Neill’s"),
    ("Lisbon", "Lisbon's"),
    ("amber", "am\u00adber"),
    ("1 000 000", "1,000,000"),
    ("12 000", "12000 people"),
    ("2020", "in 2020 100 people"),
    ("-5", "minus 5"),
    ("$1,000", "USD 1,000"),
    ("twenty-one", "twenty one"),
    ("1990s", "in the 1990's"),
    ("10%", "10 per cent"),
    ("U.S.", "in the US"),
    ("USA", "the U.S.A."),
    ("J. K. Rowling", "JK Rowling"),
    ("J.K. Rowling", "by J. K. Rowling."),
    ("5 pm", "5 p.m."),
    ("B", "B. I think"),
    ("Paris", "It is _Paris_."),
    ("Paris", "**Paris**"),
    ("AT&T", "AT&amp;T"),
    ("İstanbul", "istanbul"),
    ("Istanbul", "İSTANBUL"),
    ("Diyarbakır", "DİYARBAKIR"),
    ("القاهرة", "القَاهِرَة"),
]


@pytest.mark.parametrize(("gold", "answer"), WRONG)
def test_a_gold_that_is_only_a_part_of_another_word_is_not_there(gold, answer):
    assert not contains_answer(answer, {"answer": gold})


@pytest.mark.parametrize(("gold", "answer"), RIGHT)
def test_a_gold_that_is_written_otherwise_is_there(gold, answer):
    assert contains_answer(answer, {"answer": gold})


@given(st.text(max_size=40))
def test_every_text_contains_itself(text):
    if text.strip():
        assert contains(text, text)
        assert plain_words(text)


def test_english_words_are_what_they_were():
    assert plain_words("The tower, of a London (1990)!") == ["tower", "of", "london", "1990"]
    assert plain_words("+") == ["+"]
    assert plain_words("A") == ["a"]


def test_scores_take_the_best_accepted_answer():
    scores = answer_scores("the old stone bridge", ["a bridge", "stone bridge", "the Old Stone Bridge"])
    assert scores == {"exact": 1, "contains": 1, "f1": 1}
    scores = answer_scores("it is amber and salt", ["amber and silk"])
    assert (scores["exact"], scores["contains"]) == (0, 0)
    assert scores["f1"] == pytest.approx(2 * 2 / (5 + 3))
    assert answer_scores("北京市", ["北京"])["f1"] == pytest.approx(0.8)
    assert answer_scores("", ["amber"]) == {"exact": 0, "contains": 0, "f1": 0}
    assert answer_scores("amber amber amber", ["amber"])["f1"] == pytest.approx(0.5)


# Pairs from texts without blanks


FILLING = "长江从西向东流过许多省份最后流入大海。山上的树木在秋天变成红色和黄色。"
ROW = {
    "context": FILLING * 12 + "张伟先生把钥匙放在蓝色的箱子里面。" + FILLING * 12,
    "question": "张伟先生把钥匙放在哪里？",
    "answer": "蓝色的箱子",
}


def reader(prompts):
    return ["答案是蓝色的箱子" if "蓝色的箱子" in prompt else f"在第{len(prompt)}号房间" for prompt in prompts]


def test_a_chinese_row_gives_a_pair():
    pairs = build_pairs([ROW], reader, chunk_size=100, num_chunks=4, progress=False)
    found = list(pairs)
    assert pairs.report.skipped == {}
    (pair,) = found
    assert "蓝色的箱子" in pair["chosen"]
    assert not any("蓝色的箱子" in answer for answer in pair["rejected"])
    assert pair["separator"] == ""
    assert "".join(pair["chunks"]).strip() in pair["prompt"]


@pytest.mark.parametrize("text", [ROW["context"], "กรุงเทพมหานคร " * 40, "それは東京タワーです。" * 40])
def test_chunks_of_unbroken_text_are_small_and_whole(text):
    chunks = chunk_text(text, 20)
    assert "".join(chunks) == text
    assert len(chunks) > 10
    assert all(len(split_words(chunk)) <= 20 for chunk in chunks)


def test_the_rare_word_scorer_finds_the_place_in_an_unbroken_text():
    chunks = chunk_text(ROW["context"], 100)
    scores = [rare_words(chunk, ROW["question"], ROW) for chunk in chunks]
    assert max(scores) > 6
    assert "张伟" in chunks[scores.index(max(scores))]
    assert sorted(scores)[-3] < 6


def test_entities_need_no_blanks_around_them_in_an_unbroken_text():
    row = {"facts": [{"name": "张伟", "value": "箱子"}, {"name": "Oslo", "value": "tea"}]}
    assert exact_entities("钥匙在张伟的箱子里", "张伟有什么？", row) == 2
    assert exact_entities("Oslo有tea。", "Oslo有什么？", row) == 2
    assert exact_entities("Oslos teas", "Oslo有什么？", row) == 0


def test_near_duplicates_of_unbroken_text_are_judged_sign_by_sign():
    assert judge("蓝色的箱子里。", "蓝色的箱子里", [], right=False, similarity=0.9).identical
    assert judge("蓝色的箱子里面", "蓝色的箱子里", [], right=False, similarity=0.9).near
    assert judge("红色的房间", "蓝色的箱子里", [], right=False, similarity=0.9).fault is None


def test_a_blank_belongs_behind_texts_of_scripts_that_have_one():
    assert not any(map(ends_unbroken, ["What?", "Answer:", "", "서울은?", "ABC"]))
    assert all(map(ends_unbroken, ["在哪里？", "答案：", "北京", "ที่ไหน", "どこですか。"]))
