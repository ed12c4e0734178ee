"""Figures are pure functions: the artists hold the numbers that went in, and nothing outside the figure changes.

Each function is drawn from known data and read back, through matplotlib's own artists; then come the promises that hold
for every figure: alt text, titles, font sizes, the size of the file, the same bytes twice, no pyplot.
"""

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from support.figure_rules import FiguresKeepTheRules

from minilib import lse
from minilib.teaching import memory, plots

BATCHES = [256, 1024, 4096, 16384]
PICTURES = (torch.arange(6 * 3 * 8 * 8) % 251).reshape(6, 3, 8, 8).to(torch.uint8)


def wall(**options):
    dense, tiled = ([memory.predict_bytes(b, 64, backend=n)["total"] for b in BATCHES] for n in memory.BACKENDS)
    return plots.memory_wall(BATCHES, dense, tiled, **options)


def film():
    blocks = [torch.tensor(b) for b in ([1.0, 2.0], [5.0, 0.0], [3.0, 4.0], [6.0, 1.0])]
    pairs = [lse.of_block(blocks[0])]
    for block in blocks[1:]:
        pairs.append(lse.update(pairs[-1], block))
    return plots.running_max_film(blocks, pairs)


def visits(size, tile):
    cuts = [slice(k, min(k + tile, size)) for k in range(0, size, tile)]
    return [(i, j) for i in cuts for j in cuts]


FIGURES = {
    "memory_wall": lambda: wall(limit_bytes=1e9, measured={"dense": [(1024, 2e7)], "tiled": [(1024, 6e6)]}),
    "predicted_vs_measured": lambda: plots.predicted_vs_measured(["dense", "tiled"], [100e6, 20e6], [104e6, 23e6]),
    "memory_parts": lambda: plots.memory_parts({n: memory.predict_bytes(4096, 64, backend=n) for n in memory.BACKENDS}),
    "timing_ratios": lambda: plots.timing_ratios(["dense", "tiled"], [1, 0.7], [0.9, 0.6], [1.1, 0.8]),
    "similarity_matrix": lambda: plots.similarity_matrix(torch.eye(5), [f"caption {k}" for k in range(5)]),
    "pairs_seen": lambda: plots.pairs_seen(torch.block_diag(torch.ones(3, 3), torch.ones(3, 3))),
    "temperature_effect": lambda: plots.temperature_effect({1.0: [0.5, 0.3, 0.2], 10.0: [0.9, 0.08, 0.02]}),
    "loss_vs_batch": lambda: plots.loss_vs_batch(BATCHES, {"trained": [1, 2, 3, 4]}),
    "running_max_film": film,
    "tile_order": lambda: plots.tile_order(10, 10, visits(10, 4), upto=5),
    "overflow_curve": lambda: plots.overflow_curve([10, 80, 90], [12, 82, np.inf], [12, 82, 92]),
    "loss_curves": lambda: plots.loss_curves({"dense": [3, 2, 1], "tiled": [3, 2, 1]}),
    "recall_vs_batch": lambda: plots.recall_vs_batch(BATCHES, {"recall@1": ([0.1, 0.2, 0.3, 0.4],) * 3}, chance=0.001),
    "image_grid": lambda: plots.image_grid(PICTURES, [f"picture {k}" for k in range(6)]),
    "retrieval_examples": lambda: plots.retrieval_examples(PICTURES[0], ["a", "b", "c"], [0.9, 0.5, 0.1], 1),
}


OWN_FILES = ("ablation", "alignment", "alignment_lesson", "batches", "kernels", "longcontext", "pairs", "positions")
OWN_FILES += ("cluster", "preference", "ring", "stretch", "vocabulary")


def test_every_public_figure_is_drawn_here():
    elsewhere = tuple(f".{name}" for name in OWN_FILES)  # drawn in test files of their own
    names = {n for n in plots.__all__ if n.islower() and not getattr(plots, n).__module__.endswith(elsewhere)}
    assert set(FIGURES) == names - {"show", "to_png"}


class TestFigures(FiguresKeepTheRules):
    """The rules of every figure, for these."""

    figures = FIGURES


def test_figures_leave_no_global_state_and_need_no_display():
    code = (
        "import sys; from minilib.teaching import plots; plots.to_png(plots.loss_curves({'a': [2, 1]}));"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_title_may_be_given():
    assert plots.loss_curves({"a": [2.0, 1.0]}, title="A finding").get_suptitle() == "A finding"


def test_the_memory_wall_holds_the_bytes_and_names_where_dense_passes_the_limit():
    figure = wall(limit_bytes=1e9)
    lines = {tuple(line.get_xdata()): line.get_ydata() for line in figure.axes[0].lines[:1]}
    assert list(lines) == [tuple(BATCHES)]
    assert list(figure.axes[0].lines[0].get_ydata()) == [
        memory.predict_bytes(b, 64, backend="dense")["total"] for b in BATCHES
    ]
    assert "at 16,384 pairs" in figure.alt_text
    assert "passes" not in wall().alt_text


def test_measured_points_are_filled_and_predicted_ones_hollow():
    panel = FIGURES["memory_wall"]().axes[0]
    predicted, measured = panel.lines[0], panel.lines[1]
    assert predicted.get_markerfacecolor() == "white"
    assert list(measured.get_ydata()) == [2e7]
    assert measured.get_markerfacecolor() != "white"


def test_bars_have_the_heights_of_prediction_and_measurement():
    panel = FIGURES["predicted_vs_measured"]().axes[0]
    assert [bar.get_height() for bar in panel.patches] == [100e6, 20e6, 104e6, 23e6]
    assert panel.patches[0].get_hatch()
    assert not panel.patches[2].get_hatch()


NEARNESS = [(104e6, "within a quarter"), (160e6, "within a factor of two"), (300e6, "more than a factor of two")]


@pytest.mark.parametrize(("measured", "words"), NEARNESS)
def test_the_alt_text_tells_how_near_the_prediction_is(measured, words):
    assert words in plots.predicted_vs_measured(["dense"], [100e6], [measured]).alt_text


def test_stacked_parts_add_up_to_the_total():
    parts = memory.predict_bytes(4096, 64, backend="tiled")
    figure = plots.memory_parts({"tiled": parts})
    assert sum(bar.get_width() for bar in figure.axes[0].patches) == parts["total"]


def test_timing_bars_have_the_lengths_of_the_ratios():
    panel = FIGURES["timing_ratios"]().axes[0]
    assert [bar.get_width() for bar in panel.patches] == [1, 0.7]
    assert "tiled takes 0.70" in FIGURES["timing_ratios"]().get_suptitle()


def test_the_similarity_matrix_shows_its_entries_and_counts_the_winners():
    matrix = torch.tensor([[0.9, 0.1], [0.8, 0.2]])
    figure = plots.similarity_matrix(matrix)
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), matrix.numpy())
    assert "50% of the rows" in figure.alt_text


def test_the_share_of_compared_pairs_is_told():
    assert "50%" in FIGURES["pairs_seen"]().alt_text


def test_log_b_is_drawn_beside_the_losses():
    bound, trained = FIGURES["loss_vs_batch"]().axes[0].lines
    np.testing.assert_allclose(bound.get_ydata(), np.log(BATCHES))
    assert list(trained.get_ydata()) == [1, 2, 3, 4]


def test_each_frame_of_the_film_shows_its_pair_and_all_logits_so_far():
    figure = film()
    assert [len(panel.patches) for panel in figure.axes] == [2, 4, 6, 8]
    assert [panel.lines[0].get_ydata()[0] for panel in figure.axes] == [2.0, 5.0, 5.0, 6.0]
    assert "Frames 2, 4 raise m" in figure.alt_text


def test_tiles_lie_where_the_visits_say_in_its_order():
    figure = FIGURES["tile_order"]()
    boxes = figure.axes[0].patches
    assert [(b.get_y(), b.get_x(), b.get_height(), b.get_width()) for b in boxes] == [
        (i.start, j.start, i.stop - i.start, j.stop - j.start) for i, j in visits(10, 4)
    ]
    assert sum(b.get_facecolor() != (1.0, 1.0, 1.0, 1.0) for b in boxes) == 5
    assert "After 5 visits 72%" in figure.alt_text


def test_the_overflow_is_marked_where_the_naive_sum_is_gone():
    figure = FIGURES["overflow_curve"]()
    assert "scale 90" in figure.alt_text
    assert figure.axes[0].lines[-1].get_xdata()[0] == 90
    assert "agree throughout" in plots.overflow_curve([1, 2], [3, 4], [3, 4]).alt_text


def test_loss_curves_may_differ_in_length_and_tell_their_direction():
    figure = plots.loss_curves({"a": [3.0, 2.0, 1.0], "b": [1.0, 2.0]}, steps=[10, 20, 30])
    assert [list(line.get_xdata()) for line in figure.axes[0].lines] == [[10, 20, 30], [10, 20]]
    assert "Not every curve" in figure.alt_text


def test_recall_holds_its_means_and_says_whether_it_rises():
    figure = FIGURES["recall_vs_batch"]()
    assert list(figure.axes[0].lines[0].get_ydata()) == [0.1, 0.2, 0.3, 0.4]
    assert "does better" in figure.alt_text
    falling = plots.recall_vs_batch([1, 2], {"recall@1": ([0.4, 0.3],) * 3})
    assert "does not always do better" in falling.alt_text


def test_pictures_are_shown_as_they_are_each_with_its_caption():
    figure = FIGURES["image_grid"]()
    np.testing.assert_array_equal(figure.axes[2].images[0].get_array(), PICTURES[2].permute(1, 2, 0).numpy())
    assert figure.axes[2].get_title() == "picture 2"


def test_a_caption_that_was_not_found_is_told():
    assert "not among them" in plots.retrieval_examples(PICTURES[0], ["a"], [0.3], None).alt_text
    assert "at place 2" in FIGURES["retrieval_examples"]().alt_text


def test_in_jupyterlab_the_picture_comes_first_as_html_with_its_alt_text(monkeypatch):
    sent = []
    monkeypatch.setattr("IPython.display.display", lambda data, **_: sent.append(data))
    figure = FIGURES["loss_curves"]()
    figure.alt_text = 'A "quoted" curve falls.'
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    plots.show(figure)
    monkeypatch.setenv("JPY_SESSION_NAME", "lesson.ipynb")
    plots.show(figure)
    assert set(sent[0]) == {"image/png", "text/plain"}
    assert sent[1]["image/png"] == sent[0]["image/png"]
    assert sent[1]["text/html"].startswith('<img alt="A &quot;quoted&quot; curve falls." width=')
    assert sent[1]["image/png"] in sent[1]["text/html"]


def test_show_sends_a_picture_with_its_alt_text(monkeypatch):
    import IPython.display

    sent = {}
    monkeypatch.setattr(IPython.display, "display", lambda data, **options: sent.update(data=data, **options))
    figure = FIGURES["loss_curves"]()
    plots.show(figure)
    assert sent["data"]["text/plain"] == figure.alt_text
    assert sent["metadata"]["image/png"] == {"alt": figure.alt_text, "width": 640}
    assert sent["raw"] is True


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plots.memory_wall([1, 2], [1], [1, 2]), "batches has 2, dense_bytes has 1"),
        (lambda: plots.loss_curves({}), "curves has 0"),
        (lambda: plots.loss_curves({"a": [1, 2, 3]}, steps=[1]), "steps has 1"),
        (lambda: plots.similarity_matrix(torch.ones(2, 3)), r"matrix has shape \(2, 3\)"),
        (lambda: plots.image_grid(torch.ones(2, 3, 4, 4), ["a", "b"]), "images is float32"),
        (lambda: plots.running_max_film([[1.0]] * 9, [(1, 1)] * 9), "blocks has 9"),
        (lambda: plots.show(Figure()), "no alt text"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
