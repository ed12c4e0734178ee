"""The pictures of positions hold the numbers that went in, and keep the promises of every figure of the course."""

import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection
from support.figure_rules import FiguresKeepTheRules

from minilib.evals.coverage import count_distances
from minilib.longcontext import pack_answers, synthesize_positions
from minilib.teaching.plots import positions as plots
from minilib.teaching.plots import to_png

LENGTHS, TARGET = [3, 4, 3], 40
STRIPS = {"plain": range(10), "continuous": [2, 3, 4, 20, 21, 22, 23, 30, 31, 32], "sparse": range(0, 40, 4)}
PACK = pack_answers([1] * 6, [[2] * 3, [3] * 2, [4] * 4])


def distances():
    spread = [synthesize_positions(LENGTHS, 1280, mode="sparse", generator=torch.Generator().manual_seed(0))]
    return {"plain": count_distances([np.arange(10)], 1280), "sparse": count_distances(spread, 1280)}


FIGURES = {
    "position_strips": lambda: plots.position_strips(STRIPS, LENGTHS, TARGET),
    "coverage_curves": lambda: plots.coverage_curves([1, 4, 16], {"continuous": [0.1, 0.4, 0.8], "pose": [0.1] * 3}),
    "distances_seen": lambda: plots.distances_seen(distances()),
    "who_sees_whom": lambda: plots.who_sees_whom(PACK.attention_mask, PACK.segment_ids),
}


class TestFigures(FiguresKeepTheRules):
    """The rules of every figure, for these."""

    figures = FIGURES


def test_strips_fill_exactly_the_positions_they_are_given():
    panel = FIGURES["position_strips"]().axes[0]
    found = {row: set() for row in range(len(STRIPS))}
    for bars in panel.findobj(PolyCollection):
        if np.allclose(bars.get_facecolor()[0], 1):
            continue  # the empty strip
        for path in bars.get_paths():
            (left, low), (right, high) = path.vertices.min(0), path.vertices.max(0)
            found[round((low + high) / 2)] |= set(range(round(left), round(right)))
    assert [found[row] for row in found] == [set(positions) for positions in STRIPS.values()]
    assert [tick.get_text() for tick in panel.get_yticklabels()] == list(STRIPS)


def test_a_strip_of_all_the_paper_s_positions_stays_light():
    lengths = [512] * 16
    strips = {mode: synthesize_positions(lengths, 65_536, mode=mode) for mode in ("continuous", "sparse", "mixed")}
    assert len(to_png(plots.position_strips(strips, lengths, 65_536))) <= 80_000


def test_coverage_curves_hold_their_shares_and_name_the_best():
    figure = FIGURES["coverage_curves"]()
    assert list(figure.axes[0].lines[0].get_ydata()) == [0.1, 0.4, 0.8]
    assert "After 16 samples continuous has seen 80%" in figure.get_suptitle()


def test_outlines_of_distances_add_up_to_one():
    figure = FIGURES["distances_seen"]()
    assert [patch.get_data().values.sum() for patch in figure.axes[0].patches] == pytest.approx([1, 1])
    assert "plain 9" in figure.get_suptitle()
    assert "farthest is sparse" in figure.alt_text


def test_the_grid_is_filled_where_the_mask_is_true():
    panel = FIGURES["who_sees_whom"]().axes[0]
    grid = panel.collections[0].get_array().reshape(15, 15)
    np.testing.assert_array_equal(grid > 0, PACK.attention_mask[0, 0].numpy())
    assert [tick.get_text() for tick in panel.get_yticklabels()] == ["prompt", "chosen", "rejected 1", "rejected 2"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plots.position_strips({"plain": range(9)}, LENGTHS, TARGET), "strip 'plain' has 9 positions"),
        (lambda: plots.position_strips({}, LENGTHS, TARGET), "strips has 0"),
        (lambda: plots.coverage_curves([1, 2], {"pose": [0.1]}), "samples has 2, pose has 1"),
        (lambda: plots.who_sees_whom(PACK.attention_mask, range(4)), r"mask has shape \(15, 15\) for 4 tokens"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
