"""The experiment on the tiny model compares like with like, goes on where it stopped, and its page says what it found.

Records made up here have known answers; a quick campaign of two arms runs for real; what the book keeps is recomputed.
"""

import json
from pathlib import Path

import pytest
from support.figure_rules import FiguresKeepTheRules
from support.reference import refused

from minilib.bench.ablation import arms, bench_alignment, campaign, pages
from minilib.longcontext.scoring import DEVIATIONS
from minilib.teaching import plots
from minilib.trainers.objectives import make_objective

KEPT = Path(__file__).parents[2] / "book" / "results" / "alignment.json"


def record(arm, seed, far, near=1.0, perplexity=10.0, tokens=100):
    """A record whose accuracy is `near` in the window and `far` at both lengths beyond it."""
    single = {"128": near, "480": far, "992": far}
    scores = {"single": single, "multi": {"224": near, "992": far}, "multi_recall": {"224": near, "992": far}}
    scores |= {"middle": {"depths": [0, 1], "accuracy": [far, near]}, "needles": [[near, far, far]]}
    scores |= {"lengths": [128, 480, 992], "depths": [0.5]}
    scores["retention"] = {"accuracy": near, "perplexity": perplexity}
    costs = {"tokens": tokens, "cpu_seconds": 2.0, "added_memory": 10**6}
    found = {"arm": arm, "group": "g", "seed": seed, "settings": {}, "scores": scores}
    return found if arm == "base" else found | {"costs": costs}


RECORDS = [
    *(record("base", seed, far) for seed, far in ((1, 0.4), (2, 0.5), (3, 0.6))),
    *(record("SFT", seed, far) for seed, far in ((1, 0.5), (2, 0.5), (3, 0.5))),
    *(record("LOGO", seed, far, near=0.99, perplexity=10.4) for seed, far in ((1, 0.7), (2, 0.7), (3, 0.7))),
]


def test_figures_are_means_over_seeds_with_the_smallest_and_the_largest():
    found = pages.summarise(RECORDS)["arms"]["base"]["beyond"]
    assert found["mean"] == pytest.approx(0.5)
    assert (found["min"], found["max"]) == (0.4, 0.6)


def test_gains_are_taken_seed_by_seed():
    found = pages.summarise(RECORDS)["arms"]
    assert found["LOGO"]["gain"] == pytest.approx({"mean": 0.2, "min": 0.1, "max": 0.3})
    assert found["LOGO"]["over_sft"]["mean"] == pytest.approx(0.2)
    assert found["SFT"]["gain"]["min"] == pytest.approx(-0.1)


def test_bars_hold_where_they_do_and_are_missed_where_not():
    held = {bar["claim"]: bar["held"] for bar in pages.summarise(RECORDS)["bars"]}
    assert list(held.values()) == [True, True, True, True]
    worse = [r for r in RECORDS if r["arm"] != "LOGO"]
    worse += [record("LOGO", seed, 0.45, near=0.9, perplexity=11) for seed in (1, 2, 3)]
    assert [bar["held"] for bar in pages.summarise(worse)["bars"]] == [False, False, False, False]
    assert {bar["held"] for bar in pages.summarise(RECORDS[:6])["bars"]} == {None}


def test_every_arm_asks_for_a_loss_that_exists_with_settings_that_it_knows():
    names = [arm.name for arm in arms.ARMS]
    assert len(names) == len(set(names))
    for arm in arms.ARMS:
        options = arms.trainer_options(arm, 1000)
        known = {name: options[name] for name in ("sft_weight", "released") if name in options}
        if arm.loss:
            make_objective(arm.loss, **known)
        assert options["target_length"] in (None, 1000)


def test_every_comparison_has_its_arm():
    by_name = {arm.name: arm for arm in arms.ARMS}
    assert {arm.options.get("num_rejected") for arm in arms.ARMS if arm.name.startswith("LOGO")} >= {2, 3, 8}
    assert {arm.options.get("sft_weight") for arm in arms.ARMS} >= {0.0, 0.5, 1.0}
    assert {tuple(arm.options.get("released", ())) for arm in arms.ARMS} >= {(name,) for name in DEVIATIONS}
    assert by_name["SFT"].options.get("target") is None
    assert arms.trainer_options(by_name["LOGO, plain positions"], 1000)["target_length"] is None
    assert by_name["SFT, full length, same steps"].full_length


def test_an_unknown_arm_is_refused_before_anything_runs(tmp_path):
    refused(ValueError, "arms holds 'LOGA'", lambda: bench_alignment(arms=["LOGA"], output=tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_campaign_goes_on_where_it_stopped(tmp_path, capsys, monkeypatch):
    wanted = ["LOGO, M = 3", "interpolation, no training"]
    first = bench_alignment(arms=wanted, seeds=(1,), quick=True, output=tmp_path)
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()}
    assert sorted(times) == ["base-1.json", "interpolation_no_training-1.json", "logo_m_3-1.json"]
    (tmp_path / "records" / "base-1.json").unlink()
    # what runs in this process the second time ran in processes of its own the first time: the scores are the same
    monkeypatch.setattr(campaign, "_all", lambda _workers, _title, jobs: [run(*given) for run, *given in jobs])
    again = bench_alignment(arms=wanted, seeds=(1,), quick=True, output=tmp_path)
    assert _scores(again) == _scores(first)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()}
    assert {name for name in times if times[name] != after[name]} == {"base-1.json"}
    assert (tmp_path / "alignment.md").read_text() == pages.page(again)
    assert "interpolation, no training" in capsys.readouterr().out


def _scores(document):
    return [r["scores"] for r in document["records"]]


def test_a_record_of_other_settings_is_not_taken_for_this_run(tmp_path, monkeypatch):
    (tmp_path / "records").mkdir()
    arm = arms.ARMS[0]
    (tmp_path / "records" / "base-1.json").write_text(json.dumps({"settings": {"steps": 1}, "old": True}))
    monkeypatch.setattr(campaign.one_run, "run", lambda arm, seed, settings, path: {"settings": settings, "new": True})
    assert "new" in campaign._record(arm, 1, {"steps": 2}, tmp_path)
    assert "new" in campaign._record(arm, 1, {"steps": 2}, tmp_path)
    monkeypatch.setattr(campaign.one_run, "run", lambda *_: 1 / 0)
    assert "new" in campaign._record(arm, 1, {"steps": 2}, tmp_path)


def test_the_page_has_a_row_for_every_arm_and_a_verdict_for_every_bar():
    settings = campaign.FULL
    document = {"settings": settings, "seeds": [1, 2, 3], "machine": _machine()} | pages.summarise(RECORDS)
    text = pages.page(document)
    assert text.count("| LOGO |") == 3
    assert text.count("| held |") == 4
    assert "0.20 (0.10 to 0.30)" in text


def _machine():
    from minilib.bench import device

    return device.describe()


# What the book keeps


def test_what_the_book_keeps_is_complete_and_says_what_its_records_say():
    document = json.loads(KEPT.read_text())
    names = {arm.name for arm in arms.ARMS}
    assert len(document["seeds"]) >= 3
    assert {(r["arm"], r["seed"]) for r in document["records"]} == {(n, s) for n in names for s in document["seeds"]}
    assert all(r["settings"] == document["settings"] for r in document["records"])
    assert document["settings"] == campaign.FULL
    again = json.loads(json.dumps(pages.summarise(document["records"])))
    assert again["bars"] == document["bars"]
    assert again["arms"] == document["arms"]


def test_the_page_of_the_book_holds_the_tables_of_its_records():
    document, text = json.loads(KEPT.read_text()), KEPT.with_suffix(".md").read_text()
    tables = pages.tables(document)
    assert len(tables) == 4
    for table in tables.values():
        assert table in text


class TestFigures(FiguresKeepTheRules):
    figures = {  # noqa: RUF012, read only
        "gains": lambda: plots.arm_gains({"LOGO": (0.2, 0.1, 0.3), "SFT": (0.0, -0.1, 0.1)}, marked=["SFT"]),
    }


def test_the_pictures_show_the_numbers_they_are_given():
    figure = plots.arm_gains({"LOGO": (0.2, 0.1, 0.3), "SFT": (0.0, -0.1, 0.1)})
    lines = figure.axes[0].get_lines()
    assert [float(x) for x in lines[0].get_xdata()] == pytest.approx([10, 30])
    assert float(lines[1].get_xdata()[0]) == pytest.approx(20)
    assert "LOGO gains the most" in figure.get_suptitle()
    refused(ValueError, "gains is empty", lambda: plots.arm_gains({}))
