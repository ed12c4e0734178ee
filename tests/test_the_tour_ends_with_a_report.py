"""The tour runs to its end, goes on after an interrupt, and leaves one page that loads nothing from anywhere."""

import json
import re
from html.parser import HTMLParser

import pytest

from minilib.teaching import tour as story
from minilib.teaching.report import verdicts


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


def test_the_report_shows_at_least_five_figures_each_with_alt_text(output):
    images = Page((output / "report.html").read_text()).images
    assert len(images) >= 5
    assert all(len(image["alt"]) > 40 for image in images)


def test_the_report_uses_no_network_and_no_other_file(output):
    text = (output / "report.html").read_text()
    assert all(reference.startswith("data:image/png;base64,") for reference in Page(text).references)
    assert not re.search(r"url\(|@import|<script|<link|<iframe", text)


def test_the_metrics_are_complete_and_say_that_the_tour_has_finished(output):
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["finished"] is True
    assert metrics["curves"]["largest_difference"] < 1e-4
    assert {"wall", "curves", "batches", "giant", "found"} <= metrics.keys()
    assert not (output / "training").exists()


def test_every_verdict_follows_the_numbers(output):
    metrics = json.loads((output / "metrics.json").read_text())
    metrics["batches"]["mean_recall"] = {"64": 0.1, "256": 0.2, "1024": 0.3}
    assert "rises with every step in batch size" in verdicts(metrics)["batches"]
    metrics["batches"]["mean_recall"] = {"64": 0.1, "256": 0.4, "1024": 0.3}
    assert "does not rise with every step in batch size; the best batch here is 256" in verdicts(metrics)["batches"]
    metrics["curves"]["largest_difference"] = 0.5
    assert "should not be" in verdicts(metrics)["curves"]
    metrics["wall"]["machine_bytes"] = 1e15
    assert "would have fitted" in verdicts(metrics)["giant"]


def test_an_interrupted_tour_goes_on_where_it_stopped(tmp_path, monkeypatch):
    visits = []

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
