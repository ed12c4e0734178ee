"""The pictures of lesson 05 hold the trace, offsets and tables that went in, and keep the promises of all figures.

Drawn from small known data and read back through matplotlib's own artists.
"""

import numpy as np
import pytest
import torch
from support.figure_rules import FiguresKeepTheRules

from minilib.teaching import plots
from minilib.teaching.lanes import Access, Memory


def visits(rows, cols, grid, tile):
    return [
        ((gm, gn), slice(i, min(i + tile, rows)), slice(j, min(j + tile, cols)))
        for gm in range(grid[0])
        for gn in range(grid[1])
        for i in range(gm * tile, rows, grid[0] * tile)
        for j in range(gn * tile, cols, grid[1] * tile)
    ]


def lanes():
    tiles = {}
    for i in range(2):
        for j in range(2):
            row, col = 4 * i + np.arange(4)[:, None], 4 * j + np.arange(4)[None, :]
            tiles[i, j] = (torch.tensor(row * 8 + col), torch.tensor((row < 5) & (col < 7)))
    return tiles


def use():
    x = Memory("x", np.zeros(10), 5)
    x.accesses.append(Access("load", (0,), np.arange(4), np.ones(4, dtype=bool)))
    x.accesses.append(Access("store", (1,), np.array([3, 9, 10, 11]), np.array([True, True, True, False])))
    return [x]


ROWS, COLS = torch.arange(36.0).reshape(3, 12), torch.arange(20.0).reshape(2, 10)
FIGURES = {
    "program_map": lambda: plots.program_map(80, 112, visits(80, 112, (2, 3), 16)),
    "masked_pointers": lambda: plots.masked_pointers(lanes()),
    "lane_use": lambda: plots.lane_use(use()),
    "partial_tables": lambda: plots.partial_tables(ROWS, COLS),
    "tile_film": lambda: plots.tile_film({"16 features": ROWS - 20, "32 features": 2 * ROWS, "40 features": 3 * ROWS}),
}


def texts(panel):
    return [text.get_text() for text in panel.texts]


def test_every_public_figure_of_the_file_is_drawn_here():
    own = {name for name in plots.__all__ if getattr(getattr(plots, name), "__module__", "").endswith(".kernels")}
    assert own == set(FIGURES)


class TestFigures(FiguresKeepTheRules):
    """The rules of every figure, for these."""

    figures = FIGURES


def test_every_number_says_how_often_it_was_loaded_and_stored_and_what_lies_outside_stands_behind():
    figure = FIGURES["lane_use"]()
    (panel,) = figure.axes
    assert sorted(text for text in texts(panel) if text) == ["10", "L", "L", "L", "L\nS", "S"]
    assert (
        "2 programs load 4 numbers and store 2; 1 lanes are switched off by a mask, and 1 reach outside"
        in figure.alt_text
    )


def test_a_kernel_without_a_body_has_touched_nothing():
    assert "not touched memory yet" in plots.lane_use([Memory("x", np.zeros(4), 4)]).alt_text


def test_every_visit_lies_where_the_trace_says_with_its_program_and_its_number():
    trace = visits(80, 112, (2, 3), 16)
    panel = FIGURES["program_map"]().axes[0]
    boxes = [(b.get_y(), b.get_x(), b.get_height(), b.get_width()) for b in panel.patches]
    assert boxes == [(i.start, j.start, i.stop - i.start, j.stop - j.start) for _, i, j in trace]
    assert texts(panel)[:4] == ["0,0\nvisit 1", "0,0\nvisit 2", "0,0\nvisit 3", "0,0\nvisit 4"]
    assert texts(panel)[-1] == "1,2\nvisit 4"
    colours = {program: box.get_facecolor() for (program, _, _), box in zip(trace, panel.patches)}
    assert len(set(colours.values())) == 6


def test_the_map_says_whether_every_tile_has_one_owner():
    trace = visits(32, 32, (2, 2), 16)
    assert "Every tile has one owner; the 4 programs" in plots.program_map(32, 32, trace).alt_text
    assert plots.program_map(32, 32, trace).alt_text.endswith("visits per program: 1.")
    assert "visited more than once" in plots.program_map(32, 32, trace + trace[:1]).alt_text


def test_every_lane_shows_its_offset_and_masked_lanes_are_hatched():
    figure = FIGURES["masked_pointers"]()
    assert [panel.get_xlabel() for panel in figure.axes] == [f"program ({i}, {j})" for i in (0, 1) for j in (0, 1)]
    for panel, (offsets, inside) in zip(figure.axes, lanes().values()):
        assert texts(panel) == [str(offset) for offset in offsets.flatten().tolist()]
        assert [box.get_hatch() is None for box in panel.patches] == inside.flatten().tolist()
    assert "29 of 64 lanes" in figure.alt_text


def test_the_tables_show_their_entries_and_the_sums_of_their_lines():
    figure = FIGURES["partial_tables"]()
    for panel, table in zip(figure.axes, (ROWS, COLS)):
        shown = torch.tensor([float(text) for text in texts(panel)]).reshape(len(table) + 1, -1)
        assert torch.equal(shown, torch.cat([table, table.sum(0, keepdim=True)]))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "gn = 0",
        "gn = 1",
        "gn = 2",
        "row sums",
    ]


def test_each_frame_of_the_film_holds_its_matrix_and_names_its_largest_entry():
    figure = FIGURES["tile_film"]()
    for panel, matrix in zip(figure.axes, (ROWS - 20, 2 * ROWS, 3 * ROWS)):
        np.testing.assert_array_equal(panel.images[0].get_array(), matrix.numpy())
        assert panel.images[0].get_clim() == (-matrix.abs().max(), matrix.abs().max())
    assert [panel.get_xlabel() for panel in figure.axes] == [
        "16 features\nlargest 20", "32 features\nlargest 70", "40 features\nlargest 1e+02"
    ]  # fmt: skip


def test_the_film_tells_how_often_the_diagonal_is_largest():
    told = plots.tile_film({"a": torch.eye(4).flip(0), "b": torch.eye(4)}).alt_text
    assert "0% in the first, 100% in the last" in told


def test_a_title_may_be_given():
    assert plots.partial_tables(ROWS, COLS, title="A finding").get_suptitle() == "A finding"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plots.program_map(4, 4, []), "visits has 0"),
        (lambda: plots.masked_pointers({}), "tiles has 0"),
        (lambda: plots.partial_tables(torch.ones(2, 15), COLS), r"table of row sums has shape \(2, 15\)"),
        (lambda: plots.tile_film({"a": ROWS, "b": COLS}), "frames have shapes"),
        (lambda: plots.tile_film({}), "frames has 0"),
        (lambda: plots.partial_tables(ROWS, torch.ones(3)), r"table of column sums has shape \(3,\)"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
