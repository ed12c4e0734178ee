"""Runs on when the preference term pays: draws of text differ in the text alone, gains are taken draw by draw.

Records made up here have known gains; nothing is trained but one quick run. What the book keeps is recomputed.
"""

import json
from pathlib import Path
from random import Random

import pytest
from support.reference import refused

from minilib.bench.ablation import preference_page, questions
from minilib.bench.real_alignment.own_answers import KEPT as OWN_ANSWERS
from minilib.bench.real_alignment.own_answers import bench_answers, table
from minilib.data import running_text
from minilib.data.haystack import haystack

KEPT = Path(__file__).parents[2] / "book" / "results" / "when_preference_pays.json"
DRAWS = questions.ASKED["draws"]


def made_up(draw, arm, far, near=0.5, question="texts", level="as in the lesson"):
    run = [draw, arm, question, level] if arm else [draw, None, "base", ""]
    return {"run": run, "scores": {"single": {"480": far, "992": far - 0.2}, "multi": {"224": {"accuracy": near}}}}


RECORDS = [
    *(made_up(draw, None, far) for draw, far in (("a", 0.7), ("b", 0.6), ("c", 0.5))),
    *(made_up(draw, "LOGO", far, near=0.4) for draw, far in (("a", 0.9), ("b", 0.6))),
    *(made_up(draw, "SFT, stretched positions", far) for draw, far in (("a", 0.8), ("b", 0.9), ("d", 0.9))),
]


def test_gains_are_taken_on_the_same_draw():
    found = preference_page.gains({"records": RECORDS}, "texts")["as in the lesson"]
    assert found["LOGO"] == pytest.approx({"a": 0.2, "b": 0.0})
    assert found["SFT, stretched positions"] == pytest.approx({"a": 0.1, "b": 0.3})  # d has no base
    inside = preference_page.gains({"records": RECORDS}, "texts", inside=True)["as in the lesson"]
    assert inside["LOGO"] == pytest.approx({"a": -0.1, "b": -0.1})


def test_a_spread_counts_the_draws_that_gain():
    assert preference_page.spread([0.3, 0.0, 0.15]) == "+0.15 (+0.00 to +0.30), above 0.1 on 2 of 3"
    assert preference_page.spread([]) == "not run yet"


def test_the_table_compares_where_both_arms_ran():
    row = preference_page.tables({"records": RECORDS})["texts"].splitlines()[-1]
    assert "| -0.10 (-0.30 to +0.10) |" in row


def test_the_verdict_names_what_holds_on_every_draw_that_both_arms_ran_on():
    assert preference_page.verdict({"records": RECORDS}) == (
        "Everywhere else neither of the two is ahead on every draw."
    )
    wrong = [made_up(draw, None, 0.7) for draw in "ab"]
    wrong += [made_up(draw, "LOGO", 0.95, question="wrong", level="0.5") for draw in "abc"]
    wrong += [made_up(draw, "SFT, stretched positions", 0.7, question="wrong", level="0.5") for draw in "ab"]
    told = preference_page.verdict({"records": wrong})
    assert told.startswith("LOGO is ahead of SFT at the same positions on every draw in: wrong, 0.5 (+0.25 (")
    assert "behind" not in told


def test_a_draw_changes_the_sentences_and_nothing_else():
    whole = running_text.prose_sentences()
    for draw in DRAWS.values():
        with questions.text_of(draw):
            sentences = list(running_text.prose_sentences())
            rows = haystack(length=120, seed=3)
            assert all(any(s in next(rows)["context"] for s in sentences) for _ in range(3))
        size = len(whole) // 3 if "third" in draw else len(whole)
        assert len(sentences) == size
        assert set(sentences) <= set(whole)
        first = size * draw.get("third", 0)
        assert ("shuffle" in draw) == (tuple(sentences) != whole[first : first + size])
    assert running_text.prose_sentences() is whole


def test_ten_draws_and_no_two_alike():
    assert len(DRAWS) == 10
    assert len({json.dumps(draw) for draw in DRAWS.values()}) == len({draw["seed"] for draw in DRAWS.values()}) == 10


def test_every_run_has_its_base_and_is_planned_once():
    runs = questions.planned(10)
    assert len(runs) == len(set(runs))
    for number, run in enumerate(runs):
        assert questions.Run(run.draw, None) in runs[: number + 1]
    for asked in questions.ASKED["questions"].values():
        assert all(set(level) <= {*questions.ASKED["settings"], "options"} for level in asked["levels"].values())


def test_the_share_of_wrong_chosen_answers_is_what_was_asked_for():
    pairs = [{"chosen": "right", "rejected": ["x", "y", "z"]} for _ in range(10)]
    found = questions.with_wrong(pairs, 0.2, seed=1)
    assert [pair["chosen"] for pair in found].count("z") == 2
    assert all(pair["rejected"] == ["x", "y"] for pair in found)
    assert questions.with_wrong(pairs, 0.2, seed=1) == found
    assert all(pair["chosen"] == "right" for pair in questions.with_wrong(pairs, 0.0, seed=1))


def test_a_finished_run_is_kept_and_not_run_again(tmp_path, monkeypatch):
    done, plan = [], [questions.Run("a", None), questions.Run("a", "LOGO", "texts", "as in the lesson")]

    def one(run, settings, folder):
        done.append(run)
        if len(done) == 2:
            raise KeyboardInterrupt
        found = Random(str(run)).random()
        return made_up(run.draw, run.arm, found) | {"cpu_seconds": 1.0}

    monkeypatch.setattr(questions, "one", one)
    monkeypatch.setattr(questions, "planned", lambda draws: plan)
    with pytest.raises(KeyboardInterrupt):
        questions.bench_preference(tmp_path)
    found = questions.bench_preference(tmp_path)
    assert done == [plan[0], plan[1], plan[1]]
    assert [tuple(record["run"]) for record in found["records"]] == plan
    assert json.loads((tmp_path / "when_preference_pays.json").read_text()) == found
    refused(
        ValueError, "was begun with pairs=96, this run has", lambda: questions.bench_preference(tmp_path, quick=True)
    )


@pytest.mark.slow
def test_a_quick_run_trains_on_its_own_draw(tmp_path):
    settings = questions.ASKED["settings"] | questions.QUICK
    run = questions.Run("the last third", "LOGO", "share of wrong chosen answers", "0.5")
    record = questions.one(run, settings, tmp_path)
    assert set(record["scores"]["single"]) == {"300"}
    assert record["end"]["loss"] > 0
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["6-0.jsonl"]


def test_a_model_is_asked_about_every_person_of_each_text(tmp_path, capsys):
    found = bench_answers("tiny", lengths=(200, 220), output=tmp_path / "answers.json")
    assert [len(text["asked"]) for text in found["texts"]] == [4, 4]
    assert all(text["tokens"] <= length for text, length in zip(found["texts"], (200, 220)))
    assert json.loads((tmp_path / "answers.json").read_text()) == found
    assert table(found["texts"]) in capsys.readouterr().out


# What the book keeps


def test_the_page_says_what_its_records_say():
    document = json.loads(KEPT.read_text())
    assert document["settings"] == questions.ASKED["settings"]
    assert KEPT.with_suffix(".md").read_text() == preference_page.page(document)
    assert {tuple(record["run"]) for record in document["records"]} <= set(questions.planned(10))


def test_the_answers_that_are_kept_are_judged_as_today():
    from minilib.bench.real_alignment import people

    for text in json.loads(OWN_ANSWERS.read_text())["texts"]:
        for asked in text["asked"]:
            values = [v for kind in people.VALUES.values() for v in kind if f" {v}" in asked["right"]]
            name = " ".join(asked["right"].split()[:2])
            assert people.judged(asked["answer"], values, name) == asked["judged"]
