"""The pictures of an alignment hold the numbers that went in, compare fairly, and keep the rules of every figure."""

import numpy as np
import pytest
import torch
from support.figure_rules import FiguresKeepTheRules

from minilib.evals.longcontext import NeedleMap
from minilib.teaching import plots
from minilib.teaching.plots.longcontext import in_reach

DEPTHS, LENGTHS = (0.0, 0.5, 1.0), (100, 300, 600)


def found(shares, lengths=LENGTHS):
    return NeedleMap(DEPTHS, lengths, torch.tensor(shares, dtype=torch.float64), 20)


BASE = found([[1.0, 0.5, 0.0], [1.0, 0.95, 0.2], [1.0, 1.0, 0.9]])
BETTER = found([[1.0, 0.9, 0.6], [1.0, 0.95, 0.8], [1.0, 1.0, 1.0]])
MAPS = {"base": BASE, "SFT": BASE, "LOGO": BETTER}
MARGINS = {"SFT": ([0, 10, 20], [0.5, 0.55, 0.45]), "LOGO": ([0, 10, 20], [0.5, 1.0, 2.0])}
SHARES = {"base": [[1.0, 0.5, 0.2]], "LOGO": [[1.0, 0.8, 0.6], [1.0, 0.9, 0.8]]}
FIGURES = {
    "needle_maps": lambda: plots.needle_maps(MAPS, 256),
    "needle_maps of four": lambda: plots.needle_maps(MAPS | {"stretched SFT": BETTER}, 256),
    "margin_curves": lambda: plots.margin_curves(MARGINS),
    "accuracy_by_length": lambda: plots.accuracy_by_length(LENGTHS, SHARES, 256),
}


class TestFigures(FiguresKeepTheRules):
    """The rules of every figure, for these."""

    figures = FIGURES


def maps_of(figure):
    return [panel for panel in figure.axes if panel.get_label() != "<colorbar>"]


def test_every_map_holds_its_shares_and_all_have_one_scale():
    panels = maps_of(FIGURES["needle_maps"]())
    assert [panel.get_title() for panel in panels] == list(MAPS)
    for panel, one in zip(panels, MAPS.values()):
        mesh = panel.collections[0]
        np.testing.assert_array_equal(mesh.get_array().reshape(3, 3), one.accuracy)
        assert mesh.get_clim() == panels[0].collections[0].get_clim()
    assert [text.get_text() for text in panels[0].texts] == ["100", "50", "0", "100", "95", "20", "100", "100", "90"]


def test_every_map_outlines_the_trained_distance():
    outlines = [{tuple(map(tuple, line.get_xydata())) for line in p.lines} for p in maps_of(FIGURES["needle_maps"]())]
    assert outlines[0] == {((1, 0), (1, 1)), ((1, 1), (2, 1)), ((2, 1), (2, 2)), ((2, 2), (3, 2))}
    assert outlines == [outlines[0]] * 3


def test_the_finding_of_the_maps_is_read_off_beyond_the_trained_distance():
    figure = FIGURES["needle_maps"]()
    assert "SFT is right about as often as base; LOGO is right more often than base" in figure.alt_text
    beyond = ~in_reach(DEPTHS, LENGTHS, 256, question=10)
    assert figure.get_suptitle() == "Right beyond 256 positions: base 23%, SFT 23%, LOGO 77%"
    assert BASE.accuracy[torch.from_numpy(beyond)].mean() == pytest.approx(0.7 / 3)
    turned = plots.needle_maps({"LOGO": BETTER, "base": BASE}, 256)
    assert "base is right less often than LOGO" in turned.alt_text
    assert "base is right in at most half of the cases" in plots.needle_maps({"base": BASE}, 256).alt_text


def test_maps_of_other_cells_cannot_stand_side_by_side():
    with pytest.raises(ValueError, match="map 'LOGO' has other depths or lengths than the first: measure all"):
        plots.needle_maps({"base": BASE, "LOGO": found([[1.0, 1.0]] * 3, (100, 200))}, 256)


def test_margins_are_drawn_at_their_steps_and_the_widest_is_named():
    figure = FIGURES["margin_curves"]()
    for line, (steps, margins) in zip(figure.axes[0].lines, MARGINS.values()):
        assert list(line.get_xdata()) == steps
        assert list(line.get_ydata()) == margins
    assert figure.get_suptitle() == "Under LOGO the margin ends widest"
    assert "hardly moves under SFT, rises under LOGO" in figure.alt_text
    assert "falls under LOGO" in plots.margin_curves({"LOGO": ([0, 1], [2.0, 0.0])}).alt_text
    assert plots.margin_curves({"SFT": MARGINS["SFT"]}).get_suptitle() == "The margin hardly moves"
    with pytest.raises(ValueError, match="steps of LOGO has 2, margins of LOGO has 1"):
        plots.margin_curves({"LOGO": ([0, 1], [2.0])})


def test_curves_by_length_are_means_and_their_bands_span_the_seeds():
    figure = FIGURES["accuracy_by_length"]()
    panel = figure.axes[0]
    np.testing.assert_allclose(panel.lines[1].get_ydata(), [1.0, 0.85, 0.7])
    band = panel.collections[1].get_paths()[0].vertices
    assert {0.6, 0.8} <= set(band[band[:, 0] == 600][:, 1])
    assert "LOGO is right more often than base" in figure.alt_text
    assert figure.get_suptitle() == "Beyond the window LOGO is right most often (mean of 2 seeds)"
    with pytest.raises(ValueError, match=r"accuracy of 'LOGO' has shape \(1, 2\) for 3 lengths: one row a seed"):
        plots.accuracy_by_length(LENGTHS, {"LOGO": [[1.0, 0.5]]}, 256)


def test_more_curves_than_looks_are_refused():
    with pytest.raises(ValueError, match="6 curves were given: pass at most 5"):
        plots.margin_curves({f"run {k}": ([0, 1], [0.0, 1.0]) for k in range(6)})
