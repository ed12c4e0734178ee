"""The pictures of lesson 11 hold the scores, chunks and counts that went in, and keep the promises of all figures."""

import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from support.figure_rules import FiguresKeepTheRules

from minilib.teaching import plots
from minilib.teaching.plots import pairs as drawn

SCORES = [0, 2, 0, 5, 1, 0, 3]
READS = {"chosen": [1, 3, 6], "mixed": [0, 1, 2, 5], "irrelevant": [0, 2, 5]}
SAYS = {"chosen": "figs and silk", "mixed": "figs"}
COUNTS = {"single": {"kept": 6, "right": 3, "empty": 1}, "multi": {"kept": 9, "empty": 3}}
LIMITS = {"exact": 0, "rare": 2.5}
FIGURES = {
    "context_strips": lambda: plots.context_strips(SCORES, 1, READS, SAYS),
    "context_strips, nobody reads": lambda: plots.context_strips(SCORES, 1, {}),
    "chunk_scores": lambda: plots.chunk_scores({"exact": SCORES, "rare": [2, 3, 0, 2, 0, 4, 0]}, LIMITS, {1, 3}),
    "answers_kept": lambda: plots.answers_kept(COUNTS),
}


class TestFigures(FiguresKeepTheRules):
    """The rules of every figure, for these."""

    figures = FIGURES


def strips(figure):
    """The chunks of each row that are dark, light and white, read back from the drawn boxes."""
    colours = {to_rgb(drawn.CRITICAL["facecolor"]): 0, to_rgb(drawn.IRRELEVANT["facecolor"]): 1, (1.0, 1.0, 1.0): 2}
    rows = {}
    for box in figure.axes[0].findobj(PolyCollection):
        (left, low), (right, high) = (box.get_paths()[0].vertices.min(0), box.get_paths()[0].vertices.max(0))
        kinds = rows.setdefault(round((low + high) / 2), ([], [], []))
        kinds[colours[tuple(box.get_facecolor()[0][:3])]].append(round((left + right) / 2))
    return rows


def test_a_strip_fills_what_is_read_and_darkens_what_is_critical():
    assert strips(FIGURES["context_strips"]()) == {
        0: ([1, 3, 6], [0, 2, 4, 5], []),
        1: ([1, 3, 6], [], [0, 2, 4, 5]),
        2: ([1], [0, 2, 5], [3, 4, 6]),
        3: ([], [0, 2, 5], [1, 3, 4, 6]),
    }


def test_critical_chunks_carry_their_scores_and_readers_their_words():
    panel = FIGURES["context_strips"]().axes[0]
    written = {text.get_text(): text.xy for text in panel.texts}
    assert [text for text in written if text.isdigit()] == ["2", "5", "3"]
    assert [written[score][0] for score in ("2", "5", "3")] == [1, 3, 6]
    assert all(-0.6 < written[score][1] < -0.2 for score in ("2", "5", "3"))  # above the document, below the title
    assert [round(written[f"says: {SAYS[name]}"][1] + 0.37) for name in SAYS] == [1, 2]  # above its own strip
    alone = FIGURES["context_strips, nobody reads"]().axes[0]
    assert [text.get_text() for text in alone.texts] == ["2", "5", "3"]
    assert {name for name in written if name.startswith("says")} == {"says: figs and silk", "says: figs"}
    assert [label.get_text() for label in panel.get_yticklabels()] == ["document", *READS]


def test_bars_have_the_height_of_the_scores_and_the_colour_of_the_truth():
    figure = FIGURES["chunk_scores"]()
    for panel, values, limit in zip(figure.axes, (SCORES, [2, 3, 0, 2, 0, 4, 0]), (0, 2.5)):
        assert [bar.get_height() for bar in panel.patches] == values
        dark = [bar.get_facecolor()[:3] == to_rgb(drawn.CRITICAL["facecolor"]) for bar in panel.patches]
        assert [i for i, is_dark in enumerate(dark) if is_dark] == [1, 3]
        assert panel.lines[0].get_ydata()[0] == limit
    assert figure.get_suptitle() == "Chunks with a fact that are found: exact 2 of 2, rare 1 of 2"


def test_the_parts_of_a_bar_are_the_shares_of_the_answers():
    figure = FIGURES["answers_kept"]()
    bars = [[bar for bar in figure.axes[0].patches if round(bar.get_y() + 0.3) == row] for row in (0, 1)]
    assert [[round(bar.get_width(), 6) for bar in row] for row in bars] == [[0.6, 0.3, 0.1], [0.75, 0, 0.25]]
    assert all(sum(bar.get_width() for bar in row) == pytest.approx(1) for row in bars)
    assert [text.get_text() for text in figure.axes[0].texts] == ["10", "12"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["kept", "right", "empty"]
    assert figure.get_suptitle() == "Kept most often: multi, 75% of the answers"


def test_parts_that_differ_look_different_even_without_colour():
    looks = drawn._looks([str(k) for k in range(7)]).values()
    assert len({look["hatch"] for look in looks}) == len({look["facecolor"] for look in looks}) == 7


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: plots.context_strips([], 0, READS), "scores has 0"),
        (lambda: plots.context_strips([1] * 41, 0, {}), "scores has 41 chunks, more than 40"),
        (lambda: plots.context_strips([1, 2], 0, {"chosen": [2]}), r"reads\['chosen'\] names a chunk"),
        (lambda: plots.chunk_scores({"a": [1], "b": [1, 2]}, {"a": 0, "b": 0}, []), "a has 1, b has 2"),
        (lambda: plots.answers_kept({"single": {"kept": 0}}), "counts has a name without any answer"),
        (lambda: plots.answers_kept({}), "counts has 0"),
    ],
)
def test_data_that_cannot_be_drawn_is_refused_in_one_sentence(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()
