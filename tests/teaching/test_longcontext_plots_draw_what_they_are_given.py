"""The pictures of lesson 08 hold the numbers that went in, and keep the promises of every figure of the course."""

import numpy as np
import pytest
from support.figure_rules import FiguresKeepTheRules

from minilib.evals.longcontext import Curve
from minilib.teaching import plots
from minilib.teaching.plots.longcontext import LOOKS, OUTCOMES, in_reach

DEPTHS, LENGTHS = (0.0, 0.5, 1.0), (100, 300, 600)
SHARES = [[1.0, 0.5, 0.0], [1.0, 0.95, 0.25], [1.0, 1.0, 0.9]]
FLAT = Curve((0.0, 0.5, 1.0), [1.0, 0.95, 1.0], [(0.9, 1.0), (0.9, 1.0), (0.9, 1.0)], 0.0, 1.0)
SAGGING = Curve((0.0, 0.5, 1.0), [1.0, 0.4, 1.0], [(0.9, 1.0), (0.3, 0.5), (0.9, 1.0)], 0.1, 1.0)
DISTANCES = {"long text": ([50, 250, 900], [1, 0.9, 0]), "jump": ([60, 300, 700], [1, 0.8, 0.1])}
COUNTS = {"224": [40, 0, 0, 0], "992": [13, 18, 2, 7]}
FIGURES = {
    "needle_map": lambda: plots.needle_map(DEPTHS, LENGTHS, SHARES, 256),
    "head_scores": lambda: plots.head_scores({"inside": np.eye(3, 4), "beyond": np.zeros((3, 4))}),
    "accuracy_by_distance": lambda: plots.accuracy_by_distance(DISTANCES, 256),
    "lost_in_the_middle": lambda: plots.lost_in_the_middle({"224": FLAT, "448": SAGGING}),
    "perplexity_by_position": lambda: plots.perplexity_by_position({0: 20.0, 128: 15.0, 256: 30.0, 384: 40.0}, 256),
    "found_and_right": lambda: plots.found_and_right(COUNTS),
}


def texts(panel):
    return [text.get_text() for text in panel.texts]


class TestFigures(FiguresKeepTheRules):
    """The rules of every figure, for these."""

    figures = FIGURES


def test_a_cell_is_in_reach_when_its_distance_was_seen():
    for length in (64, 246, 247, 992):
        for depth in DEPTHS:
            first = depth * (length - 4)  # index of the fact's first token
            last = length + 10 - 1  # index of the prompt's last token
            assert in_reach([depth], [length], 256, question=10).item() == (last - first <= 255)
    assert in_reach(DEPTHS, LENGTHS, 256, question=10).tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_the_map_says_every_share_and_outlines_the_cells_in_reach():
    panel = FIGURES["needle_map"]().axes[0]
    assert texts(panel)[:9] == ["100%", "50%", "0%", "100%", "95%", "25%", "100%", "100%", "90%"]
    np.testing.assert_array_equal(panel.collections[0].get_array().reshape(3, 3), SHARES)
    drawn = {tuple(map(tuple, line.get_xydata())) for line in panel.lines}
    assert drawn == {((1, 0), (1, 1)), ((1, 1), (2, 1)), ((2, 1), (2, 2)), ((2, 2), (3, 2))}
    assert panel.yaxis_inverted(), "the beginning of the text is not at the top"


def test_the_map_tells_a_model_that_holds_from_one_that_fails():
    assert "beyond, most answers of some cells are wrong" in FIGURES["needle_map"]().alt_text
    perfect = plots.needle_map(DEPTHS, LENGTHS, np.ones((3, 3)), 256)
    assert "beyond, no cell falls below a half" in perfect.alt_text
    assert perfect.get_suptitle() == "Within 256 positions 100% right, beyond 100%"
    blind = plots.needle_map(DEPTHS, LENGTHS, np.zeros((3, 3)), 256)
    assert "outlined, some answers are wrong" in blind.alt_text


def test_maps_of_heads_hold_their_scores():
    figure = FIGURES["head_scores"]()
    assert [panel.get_title() for panel in figure.axes] == ["inside", "beyond"]
    np.testing.assert_array_equal(figure.axes[0].collections[0].get_array().reshape(3, 4), np.eye(3, 4))
    assert "Few heads stand out" in figure.alt_text
    assert "Many heads stand out" in plots.head_scores({"all": np.ones((3, 4))}).alt_text


def test_curves_over_distance_hold_their_points():
    figure = FIGURES["accuracy_by_distance"]()
    for line, (x, shares) in zip(figure.axes[0].lines, DISTANCES.values()):
        assert list(line.get_xdata()) == x
        assert list(line.get_ydata()) == shares
    assert "All fall with distance" in figure.alt_text
    held = plots.accuracy_by_distance(DISTANCES | {"held": ([1, 2], [1, 1])}, 256)
    assert "Not all fall" in held.alt_text


def test_the_middle_curve_has_its_intervals_and_anchors_and_sees_a_sag():
    figure = FIGURES["lost_in_the_middle"]()
    panel = figure.axes[0]
    bars = [segment for container in panel.containers for segment in container[2][0].get_segments()]
    assert [tuple(bar[:, 1].round(6)) for bar in bars] == FLAT.intervals + SAGGING.intervals
    assert {"no document", "only the facts"} <= set(texts(panel))
    assert "A curve sags" in figure.alt_text
    assert "No curve sags" in plots.lost_in_the_middle({"224": FLAT}).alt_text


def test_bars_of_perplexity_stand_where_their_bucket_is():
    figure = FIGURES["perplexity_by_position"]()
    bars = [(bar.get_x(), bar.get_height()) for container in figure.axes[0].containers for bar in container]
    assert bars == [(0, 20), (128, 15), (256, 30), (384, 40)]
    assert "on average higher than inside" in figure.alt_text
    assert "no higher" in plots.perplexity_by_position({0: 20.0, 128: 15.0, 256: 10.0}, 256).alt_text


def test_outcomes_are_stacked_in_their_order_and_told_in_numbers():
    figure = FIGURES["found_and_right"]()
    panel = figure.axes[0]
    widths = [bar.get_width() for container in panel.containers for bar in container if bar.get_width()]
    assert widths == [40, 13, 18, 2, 7]
    assert texts(panel) == ["40", "13", "18", "2", "7"]
    assert "a part is found by a head and answered wrongly" in figure.alt_text
    assert "no part" in plots.found_and_right({"224": COUNTS["224"]}).alt_text
    assert len(OUTCOMES) == len(LOOKS)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plots.needle_map(DEPTHS, LENGTHS, SHARES[:2], 256), r"accuracy has shape \(2, 3\) for 3 depths"),
        (lambda: plots.perplexity_by_position({0: 1.0}, 256), "buckets has 1"),
        (lambda: plots.found_and_right({"224": [1, 2]}), "outcomes has 4, values has 2"),
        (lambda: plots.accuracy_by_distance({"a": ([1, 2], [1])}, 256), "distances has 2, shares has 1"),
        (lambda: plots.head_scores({}), "scores has 0"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
