"""Pictures of a training run hold the logged numbers at their steps, say who moved, and keep the rules of figures."""

import numpy as np
import pytest
from support.figure_rules import FiguresKeepTheRules

from minilib.teaching import plots

LOGGED = {"LOGO": ([20, 40, 60], [3.0, 2.0, 1.0]), "SFT": ([20, 40, 60], [2.0, 1.5, 1.2])}
SIDES = {
    "LOGO": {"chosen": ([0, 20, 40], [-1.0, -0.9, -0.5]), "rejected": ([0, 20, 40], [-4.0, -5.0, -7.0])},
    "no SFT term": {"chosen": ([0, 20, 40], [-1.0, -1.5, -3.0]), "rejected": ([0, 20, 40], [-4.0, -4.0, -4.02])},
}
FIGURES = {
    "logged_curves": lambda: plots.logged_curves(LOGGED, "loss"),
    "margin_sides": lambda: plots.margin_sides(SIDES),
}


class TestFigures(FiguresKeepTheRules):
    """The rules of every figure, for these."""

    figures = FIGURES


def test_logged_numbers_are_drawn_at_their_steps():
    figure = FIGURES["logged_curves"]()
    for line, (steps, values) in zip(figure.axes[0].lines, LOGGED.values()):
        assert list(line.get_xdata()) == steps
        assert list(line.get_ydata()) == values
    assert figure.get_suptitle() == "loss ends highest under SFT"
    with pytest.raises(ValueError, match="steps of LOGO has 2, values of LOGO has 1"):
        plots.logged_curves({"LOGO": ([1, 2], [1.0])}, "loss")
    with pytest.raises(ValueError, match="6 runs were given: pass at most 5"):
        plots.logged_curves({str(k): ([1], [1.0]) for k in range(6)}, "loss")


def test_both_sides_of_a_margin_stand_in_one_panel_on_one_scale():
    figure = FIGURES["margin_sides"]()
    for panel, (run, sides) in zip(figure.axes, SIDES.items()):
        assert panel.get_title() == run
        for line, (steps, values) in zip(panel.lines, sides.values()):
            np.testing.assert_array_equal(line.get_xdata(), steps)
            np.testing.assert_array_equal(line.get_ydata(), values)
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def test_the_words_say_who_moved():
    told = "LOGO: chosen rises, rejected falls; no SFT term: chosen falls, rejected hardly moves"
    figure = FIGURES["margin_sides"]()
    assert told == figure.get_suptitle()
    assert told in figure.alt_text
    with pytest.raises(ValueError, match="run 'SFT' has the curves"):
        plots.margin_sides(SIDES | {"SFT": {"chosen": ([0], [1.0])}})
