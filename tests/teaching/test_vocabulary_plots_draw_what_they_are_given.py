"""The pictures of lesson 10 hold the numbers that went in, and keep the promises of every figure of the course."""

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation
from support.figure_rules import FiguresKeepTheRules

from minilib.longcontext import pack_answers
from minilib.teaching import plots

WAYS = {"dense": (1, 2), "sweep": (3, 0), "frozen head": (2.0, 0.0)}
PACK = pack_answers([1] * 4, [[2] * 3, [3] * 2, [4] * 4], [0, 1, 7, 8])
FIGURES = {
    "logits_map": lambda: plots.logits_map(100, [20, 30, 10], 1000, tile=16),
    "products_by_visit": lambda: plots.products_by_visit(WAYS),
    "packed_positions": lambda: plots.packed_positions(PACK),
    "sharing_gain": lambda: plots.sharing_gain([512, 1024, 4096], {1: [1.2, 1.5, 1.9], 3: [1.4, 2.5, 3.6]}),
}


class TestFigures(FiguresKeepTheRules):
    """The rules of every figure, for these."""

    figures = FIGURES


@pytest.mark.parametrize(("prompt", "answer", "words"), [(1_024, 2_048, 262_144), (65_536, 128, 32_000)])
def test_no_text_of_the_map_is_cut_off_at_the_ends_of_its_sliders(prompt, answer, words):
    figure = plots.logits_map(prompt, [answer] * 3, words)
    figure.draw_without_rendering()
    for text in figure.findobj(Annotation):
        box = text.get_window_extent()
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= figure.bbox.x1, text
        assert box.y1 <= figure.bbox.y1, text


def boxes(panel):
    return [(*p.get_xy(), p.get_width(), p.get_height()) for p in panel.patches if type(p) is Rectangle]


def test_the_map_has_every_sequence_and_the_answer_rows_to_scale():
    left, right = FIGURES["logits_map"]().axes
    assert boxes(left) == [
        (0, 0, 1000, 100), (0, 100, 1000, 20), (0, 120, 1000, 100), (0, 220, 1000, 30), (0, 250, 1000, 100),
        (0, 350, 1000, 10)]  # fmt: skip
    assert boxes(right) == [(0, 0, 1000, 20), (0, 20, 1000, 30), (0, 50, 1000, 10), (0, 0, 16, 16)]
    assert left.get_ylim() == right.get_ylim() == (360, 0)


def test_the_map_tells_the_bytes_of_all_of_the_needed_and_of_one_tile():
    figure = FIGURES["logits_map"]()
    assert figure.get_suptitle() == "Of 1.4 MB of logits, 240 kB are needed and 1.0 kB are held at a time"
    assert [panel.get_title() for panel in figure.axes] == ["1.4 MB", "240 kB"]


def test_there_is_one_box_for_each_product_and_the_forward_ones_are_hatched():
    figure = FIGURES["products_by_visit"]()
    bars = [(p.get_x(), round(p.get_y() + p.get_height() / 2), bool(p.get_hatch())) for p in figure.axes[0].patches]
    assert bars == [(0, 0, True), (1, 0, False), (2, 0, False), (0, 1, True), (1, 1, True), (2, 1, True),
                    (0, 2, True), (1, 2, True)]  # fmt: skip
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == list(WAYS)
    assert figure.get_suptitle() == "frozen head takes 2 products"


def test_every_token_stands_at_its_index_and_position():
    panel = FIGURES["packed_positions"]().axes[0]
    drawn = np.concatenate([np.stack([line.get_xdata(), line.get_ydata()], 1) for line in panel.lines])
    np.testing.assert_array_equal(drawn, np.stack([np.arange(13), PACK.position_ids.numpy()], 1))


def test_an_arrow_leads_from_the_last_prompt_token_to_each_first_answer_token():
    panel = FIGURES["packed_positions"]().axes[0]
    arrows = [(note.xyann, note.xy) for note in panel.texts if note.arrow_patch is not None]
    firsts = [PACK.segment_ids.tolist().index(segment) for segment in (1, 2, 3)]
    assert arrows == [((3, 8), (first, 9)) for first in firsts]
    assert {PACK.predict[PACK.answer == a][0].item() for a in range(3)} == {3}


def test_gains_stay_below_their_dashed_lines():
    figure = FIGURES["sharing_gain"]()
    lines = figure.axes[0].lines
    assert [list(line.get_ydata()) for line in lines[::2]] == [[1.2, 1.5, 1.9], [1.4, 2.5, 3.6]]
    assert [line.get_ydata()[0] for line in lines[1::2]] == [2, 4]
    assert "factor of 3.6" in figure.get_suptitle()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plots.logits_map(100, [], 1000), "answers has 0"),
        (lambda: plots.products_by_visit({}), "ways has 0"),
        (lambda: plots.sharing_gain([1, 2], {2: [1.0]}), r"prompts has 2, gains\[2\] has 1"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
