"""The tour runs to its end, goes on after an interrupt, and leaves one page that loads nothing from anywhere."""

import html
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
import torch
from transformers.utils import logging

from minilib.teaching.tour import alignment as tour_alignment
from minilib.teaching.tour import logo as tour_logo
from minilib.teaching.tour import tour as story
from minilib.teaching.tour.report import verdicts


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tour")
    story.tour(folder, size="small")
    return folder


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.images, self.references, self.headings = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img":
            self.images.append(attrs)
        self.headings += [tag] if re.fullmatch("h[1-6]", tag) else []
        self.references += [value for name, value in attrs.items() if name in ("src", "href", "srcset", "action")]


@pytest.fixture
def metrics(output):
    return json.loads((output / "metrics.json").read_text())


def test_the_report_shows_all_figures_each_with_alt_text(output):
    images = Page((output / "report.html").read_text()).images
    assert len(images) == len(list(output.glob("*.png"))) == 10
    assert all(len(image["alt"]) > 40 for image in images)
    assert {"needles", "margins"} <= {path.stem for path in output.glob("*.png")}


def test_the_report_uses_no_network_and_no_other_file(output):
    text = (output / "report.html").read_text()
    assert all(reference.startswith("data:image/png;base64,") for reference in Page(text).references)
    assert not re.search(r"url\(|@import|<script|<link|<iframe", text)


def test_the_metrics_are_complete_and_say_that_the_tour_has_finished(output, metrics):
    assert metrics["finished"] is True
    assert metrics["curves"]["largest_difference"] < 1e-4
    assert {"wall", "curves", "batches", "giant", "found"} <= metrics.keys()
    assert {"pairs", "align", "needles", "answers"} <= metrics.keys()
    assert not (output / "training").exists()


def test_the_report_holds_the_answers_of_all_models_beside_the_truth(output, metrics):
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in (output / "report.html").read_text().split("<tr>")]
    assert len(metrics["answers"]["shown"]) == 6
    for shown in metrics["answers"]["shown"]:
        said = [answer or "(nothing)" for answer in shown["said"].values()]
        assert [html.escape(cell) for cell in (shown["question"], shown["truth"], *said)] in rows
    assert list(shown["said"]) == ["base", "SFT", "stretched SFT", "LOGO"]


def test_all_alignments_start_alike_and_take_the_same_steps(metrics):
    runs = metrics["align"]["runs"].values()
    assert len({run["margins"][0][1] for run in runs}) == 1
    assert {tuple(step for step, _ in run["margins"]) for run in runs} == {(0, 2, 4)}
    assert len({run["margins"][-1][1] for run in runs}) == 3


def test_every_verdict_follows_the_numbers(metrics):
    metrics["batches"]["mean_recall"] = {"64": 0.1, "256": 0.2, "1024": 0.3}
    assert "rises with every step in batch size" in verdicts(metrics)["batches"]
    metrics["batches"]["mean_recall"] = {"64": 0.1, "256": 0.4, "1024": 0.3}
    assert "does not rise with every step in batch size; the best batch here is 256" in verdicts(metrics)["batches"]
    metrics["curves"]["largest_difference"] = 0.5
    assert "should not be" in verdicts(metrics)["curves"]
    metrics["wall"]["machine_bytes"] = 1e15
    assert "would have fitted" in verdicts(metrics)["giant"]


def test_verdicts_of_an_alignment_follow_the_numbers(metrics):
    runs = metrics["align"]["runs"]
    for name, end in (("SFT", 0.6), ("stretched SFT", 0.9), ("LOGO", 2.0)):
        runs[name]["margins"] = [[0, 0.5], [4, end]]
    told = "from 0.50 nats per token to 0.60 under SFT, 0.90 under stretched SFT, 2.00 under LOGO."
    assert verdicts(metrics)["align"] == f"LOGO widens the margin of held-out pairs most: {told}"
    runs["LOGO"]["margins"][-1][1] = 0.7
    assert verdicts(metrics)["align"].startswith("Stretched SFT, not LOGO, ends widest")
    runs["stretched SFT"]["margins"][-1][1] = runs["LOGO"]["margins"][-1][1] = 0.4
    runs["SFT"]["margins"][-1][1] = 0.55
    assert verdicts(metrics)["align"].startswith("No training widens")
    answered = metrics["pairs"]["report"]["answered"]
    answered.update(chosen=100, wrong=10, rejected=200, right=40)
    assert "90%, from wrong ones 20%" in verdicts(metrics)["pairs"].replace(" of the answers are right", "")
    assert "there is a preference to learn" in verdicts(metrics)["pairs"]
    answered.update(right=190)
    assert "there is hardly a preference" in verdicts(metrics)["pairs"]


def test_verdicts_of_what_is_found_and_kept_follow_the_numbers(metrics):
    needles = metrics["needles"]
    needles["beyond"] = {"base": 0.4, "SFT": 0.45, "stretched SFT": 0.6, "LOGO": 0.7}
    told = "Over base, LOGO gains 30 points; SFT +5 points, stretched SFT +20 points."
    assert verdicts(metrics)["needles"].endswith(told)
    needles["beyond"]["LOGO"] = 0.42
    assert "LOGO gains only 2 points" in verdicts(metrics)["needles"]
    needles["beyond"]["LOGO"] = 0.3
    assert "LOGO gains nothing (-10 points)" in verdicts(metrics)["needles"]
    kept = needles["retention"]
    kept["base"], kept["LOGO"] = {"accuracy": 1.0, "perplexity": 20.0}, {"accuracy": 0.99, "perplexity": 20.8}
    assert verdicts(metrics)["retention"].endswith(
        "keeps what the model could do: accuracy -1 point, perplexity +4.0%."
    )
    for worse in ({"accuracy": 0.95, "perplexity": 20.0}, {"accuracy": 1.0, "perplexity": 22.0}):
        kept["LOGO"] = worse
        assert "LOGO pays within the window" in verdicts(metrics)["retention"]


LEVEL, AHEAD, BEHIND = ({"gain": g, "low": g - 0.05, "high": g + 0.05} for g in (0.0, 0.1, -0.1))


@pytest.mark.parametrize(
    ("positions", "rejected", "words"),
    [
        (AHEAD, AHEAD, "the rejected answers add to it"),
        (AHEAD, LEVEL, "What helps here is the stretched positions"),
        (LEVEL, AHEAD, "Stretched positions alone do not help here"),
        (LEVEL, LEVEL, "Neither stretched positions nor rejected answers show an effect of their own"),
        (AHEAD, BEHIND, "At the same stretched positions SFT does better than LOGO"),
    ],
)
def test_credit_goes_to_what_the_paired_answers_show(metrics, positions, rejected, words):
    changes = {"LOGO - base": AHEAD, "LOGO - SFT": LEVEL}
    changes |= {"LOGO - stretched SFT": rejected, "stretched SFT - SFT": positions}
    metrics["answers"]["contrasts"] = changes
    told = verdicts(metrics)["answers"]
    assert words in told
    assert "LOGO is ahead of base (+10.0 points, 95% interval +5.0 to +15.0)." in told
    assert "LOGO and SFT cannot be told apart (+0.0 points, 95% interval -5.0 to +5.0)." in told
    assert ("LOGO is behind stretched SFT" in told) == (rejected is BEHIND)


def test_the_interval_of_a_paired_gain_is_that_of_its_mean():
    found = tour_logo.paired_gain([True] * 6 + [False] * 4, [True] * 3 + [False] * 7)
    deviation = (0.3 * 0.7 / 10) ** 0.5
    assert found == pytest.approx({"gain": 0.3, "low": 0.3 - 1.96 * deviation, "high": 0.3 + 1.96 * deviation})
    assert tour_logo.paired_gain([True, False], [True, False]) == {"gain": 0.0, "low": 0.0, "high": 0.0}


def test_an_interrupted_alignment_goes_on_from_its_checkpoint_to_the_same_curve(tmp_path, metrics, monkeypatch):
    steps, note = [], tour_alignment._Watch.on_step_end

    def counted(self, args, state, control, **rest):
        steps.append((self.name, state.global_step))
        if steps[-1] == ("stretched SFT", 3) and steps.count(steps[-1]) == 1:
            raise KeyboardInterrupt
        note(self, args, state, control, **rest)

    monkeypatch.setattr(tour_alignment._Watch, "on_step_end", counted)
    tour_logo.pairs(tmp_path, tour_logo.SIZES["small"], {})
    with pytest.raises(KeyboardInterrupt):
        tour_logo.align(tmp_path, tour_logo.SIZES["small"], {})
    again = tour_logo.align(tmp_path, tour_logo.SIZES["small"], {})
    assert [step for name, step in steps if name == "SFT"] == [1, 2, 3, 4]
    assert [step for name, step in steps if name == "stretched SFT"] == [1, 2, 3, 3, 4]
    margins = {name: run["margins"] for name, run in metrics["align"]["runs"].items()}
    assert {name: [list(point) for point in run["margins"]] for name, run in again["runs"].items()} == margins


def test_a_quiet_stop_takes_one_thread_and_gives_the_others_back():
    threads, verbosity = torch.get_num_threads(), logging.get_verbosity()
    torch.set_num_threads(2)
    try:
        with tour_logo.quiet():
            assert torch.get_num_threads() == 1
            assert logging.get_verbosity() == logging.ERROR
        assert torch.get_num_threads() == 2
        assert logging.get_verbosity() == verbosity
    finally:
        torch.set_num_threads(threads)


FIGURES = {"wall": ("memory_wall", "predicted_vs_measured"), "align": ("margins",), "needles": ("needles",)}


def remembered(name, output, found):
    def stop(folder, *_):
        for figure in FIGURES.get(name, ()):
            for file in output.glob(f"{figure}.*"):
                shutil.copy(file, folder)
        return found

    stop.__doc__ = f"Remember {name}."
    return stop


def test_an_interrupted_tour_goes_on_where_it_stopped(tmp_path, output, metrics, monkeypatch):
    visits = []
    for name in ("pairs", "align", "needles", "answers"):  # what they find is known from the whole tour above
        monkeypatch.setattr(tour_logo, name, remembered(name, output, metrics[name]))
    monkeypatch.setattr(story, "wall", remembered("wall", output, metrics["wall"]))

    def interrupted(*_):
        raise KeyboardInterrupt

    def counted(name):
        stop = getattr(story, name)

        def visit(*arguments):
            visits.append(name)
            return stop(*arguments)

        visit.__doc__ = stop.__doc__
        return visit

    for name in ("wall", "curves"):
        monkeypatch.setattr(story, name, counted(name))
    with monkeypatch.context() as broken:
        interrupted.__doc__ = "Interrupted."
        broken.setattr(story, "batches", interrupted)
        with pytest.raises(KeyboardInterrupt):
            story.tour(tmp_path, size="small")
    story.tour(tmp_path, size="small")
    assert visits == ["wall", "curves"]
    assert (tmp_path / "report.html").exists()


def test_the_giant_batch_is_the_first_that_dense_cannot_hold():
    assert story.giant_batch(8e9) == 24_576
    assert story.giant_batch(25.2e9) == 40_960
    assert story.giant_batch(1e15) == 98_304
    assert 16 * story.giant_batch(25.2e9) ** 2 > 25.2e9 >= 16 * (story.giant_batch(25.2e9) - 8_192) ** 2


def test_an_unknown_size_is_refused():
    with pytest.raises(ValueError, match=r"size is 'huge': choose one of 'full', 'small'\."):
        story.tour(size="huge")
