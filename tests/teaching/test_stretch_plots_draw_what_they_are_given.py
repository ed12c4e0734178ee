"""The pictures of lesson 12 hold the numbers that went in, and keep the promises of all figures of the course."""

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from support.figure_rules import FiguresKeepTheRules

from minilib.teaching import plots

LENGTHS = [2, 3]
CUT = np.tril(np.full((5, 5), 0.25)) * np.kron(np.eye(2), np.ones((3, 3)))[1:, 1:]
WHOLE = np.tril(np.full((5, 5), 0.2))
SCORE = np.concatenate([np.sin(np.arange(100) / 9), 500 * np.sin(np.arange(100) / 9)])
FIGURES = {
    "score_beyond_window": lambda: plots.score_beyond_window(SCORE, np.sin(np.arange(200) / 18), 100),
    "stretched_frequencies": lambda: plots.stretched_frequencies(
        [100, 10, 1, 0.1], {"interpolation": [0.125] * 4, "ntk": [1, 0.5, 0.25, 0.125]}
    ),
    "attention_cut": lambda: plots.attention_cut({"without a mask": CUT, "with a mask": WHOLE}, LENGTHS),
    "answers_by_length": lambda: plots.answers_by_length([32, 64, 128], {"a": [1, 0.5, 0.4], "b": [0.9, 0.9, 1]}, 32),
}


def test_every_public_figure_of_the_file_is_drawn_here():
    names = {n for n in plots.__all__ if n.islower() and getattr(plots, n).__module__.endswith(".stretch")}
    assert names == set(FIGURES)


class TestFigures(FiguresKeepTheRules):
    """The rules of every figure, for these."""

    figures = FIGURES


def test_the_score_is_drawn_as_given_and_its_explosion_is_told():
    figure = FIGURES["score_beyond_window"]()
    raw, squeezed = figure.axes[0].lines
    np.testing.assert_array_equal(raw.get_ydata(), SCORE)
    np.testing.assert_array_equal(squeezed.get_ydata(), np.sin(np.arange(200) / 18))
    assert "more than 100 times larger than inside" in figure.alt_text
    assert "stays as small" in figure.alt_text


def test_a_bounded_score_is_not_called_an_explosion():
    figure = plots.score_beyond_window([1.0, 1.0, 0.5], [1.0, 3.0, 3.0], 2)
    assert "Beyond the window it is not larger" in figure.alt_text
    assert "grows as well" in figure.alt_text


def test_speeds_are_drawn_against_turns_and_the_least_is_told():
    figure = FIGURES["stretched_frequencies"]()
    lines = figure.axes[0].lines
    assert list(lines[0].get_xdata()) == [100, 10, 1, 0.1]
    assert [list(line.get_ydata()) for line in lines[:2]] == [[0.125] * 4, [1, 0.5, 0.25, 0.125]]
    assert "1/8 of its speed" in figure.alt_text


def test_the_maps_hold_the_weights_and_tell_who_reads_across_a_border():
    figure = FIGURES["attention_cut"]()
    for panel, weights in zip(figure.axes, (CUT, WHOLE)):
        drawn = next(part for part in panel.collections if isinstance(part, QuadMesh)).get_array().reshape(5, 5)
        np.testing.assert_array_equal(np.ma.filled(drawn, 0), weights)
    assert "without a mask: nothing is read across a border" in figure.alt_text
    assert "with a mask: something is read across a border" in figure.alt_text


def test_one_look_across_a_border_is_told():
    weights = CUT.copy()
    weights[4, 0] = 0.1
    assert "almost cut: something is read" in plots.attention_cut({"almost cut": weights}, LENGTHS).alt_text


def test_accuracies_are_drawn_and_the_worst_at_length_is_named():
    figure = FIGURES["answers_by_length"]()
    assert [list(line.get_ydata()) for line in figure.axes[0].lines[:2]] == [[1, 0.5, 0.4], [0.9, 0.9, 1]]
    assert "At 128 tokens a answers worst" in figure.get_suptitle()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plots.score_beyond_window([1, 2], [1, 2], 2), "window is 2 and the score has 2 distances"),
        (lambda: plots.score_beyond_window([1, 2], [1], 1), "score has 2, squeezed has 1"),
        (lambda: plots.stretched_frequencies([1, 2], {"ntk": [1]}), "turns has 2, ntk has 1"),
        (lambda: plots.attention_cut({"a": WHOLE}, [2, 2]), r"map 'a' has shape \(5, 5\) for 4 tokens"),
        (lambda: plots.attention_cut({}, [2, 2]), "maps has 0"),
        (lambda: plots.answers_by_length([32], {"a": [1, 1]}, 32), "lengths has 1, a has 2"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
