"""The pictures of lesson 14 hold the numbers that went in, and keep the promises of all figures."""

import pytest
from matplotlib.patches import Rectangle
from support.figure_rules import FiguresKeepTheRules

from minilib.teaching import plots

LINES = {"slow": [(1024, 1e9), (2048, 4e9)], "quick": [(1024, 1e8), (2048, 2e8)]}
MARKS = {"slow": [(2048, 4.1e9)]}
MEMORY = {"slow": {"weights": 2e9, "loss": 9e9}, "quick": {"weights": 2e9, "loss": 1e9}}
SECONDS = {"slow": {"work": 3.0, "waiting": 2.0}, "quick": {"work": 3.0, "waiting": 0.0}}
FIGURES = {
    "memory_by_batch": lambda: plots.memory_by_batch(LINES, MARKS, 5e9, title="Marks on lines"),
    "step_costs": lambda: plots.step_costs(MEMORY, SECONDS, 5e9, title="One does not fit"),
}


class TestFigures(FiguresKeepTheRules):
    """The rules of every figure, for these."""

    figures = FIGURES


def test_lines_marks_and_limit_are_drawn_where_they_belong():
    panel = FIGURES["memory_by_batch"]().axes[0]
    drawn = [list(zip(line.get_xdata(), line.get_ydata())) for line in panel.lines]
    assert drawn[:3] == [LINES["slow"], MARKS["slow"], LINES["quick"]]
    assert panel.lines[3].get_ydata()[0] == 5e9


def test_bars_have_the_length_of_their_parts_and_are_cut_off_beyond_the_limit():
    upper, lower = FIGURES["step_costs"]().axes
    widths = [bar.get_width() for bar in upper.patches if isinstance(bar, Rectangle)]
    assert widths == [2e9, 4.5e9, 2e9, 1e9]  # cut off at 1.3 times the limit
    assert [bar.get_width() for bar in lower.patches] == [3, 2, 3, 0]
    assert [text.get_text() for text in upper.texts] == ["... 11 GB", "3.0 GB"]
    assert [text.get_text() for text in lower.texts] == ["5 s", "3 s"]


def test_the_alt_text_names_what_does_not_fit():
    assert "Too large for a GPU: slow." in FIGURES["step_costs"]().alt_text
    fitting = plots.step_costs(MEMORY, SECONDS, 5e10, title="Both fit")
    assert "All of them fit." in fitting.alt_text


def test_bad_input_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="lines has 0"):
        plots.memory_by_batch({}, {}, 1e9, title="x")
