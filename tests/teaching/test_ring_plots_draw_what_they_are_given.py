"""The pictures of lesson 06 hold the trace that went in, and keep the promises of all figures.

The traces are those of real runs on local ranks; what the pictures show is read back through matplotlib's artists.
"""

import pytest
import torch
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle
from support.figure_rules import FiguresKeepTheRules

from minilib.distributed.ring_comm import LocalRing
from minilib.losses.contrastive_ring import ring_clip_loss, ring_siglip_loss
from minilib.teaching import plots
from minilib.teaching.memory import format_bytes
from minilib.teaching.plots import ring as drawn
from minilib.teaching.repro import random_features


def trace(ranks=4, backward=True, loss="clip", rows=3, dtype=torch.float32):
    sides = random_features(rows * ranks, 5, dtype=dtype)
    ring, shards = LocalRing(ranks), [side.requires_grad_(backward).split(rows) for side in sides]
    shares = ring_clip_loss(ring, *shards, 14.3) if loss == "clip" else ring_siglip_loss(ring, *shards, 14.3, -10.0)
    if backward:
        shares.sum().backward()
    return ring.trace


SCHEMES = {"ours": {"texts": 600.0, "gradients": 300.0}, "theirs": {"texts": 1200.0, "gradients": 800.0}}
FIGURES = {
    "ring_chart": lambda: plots.ring_chart(trace()),
    "ring_film": lambda: plots.ring_film(trace()),
    "ring_bytes": lambda: plots.ring_bytes(SCHEMES, 100),
    "ring_timeline": lambda: plots.ring_timeline(2e-3, 3e-3, 4),
}


def texts(panel):
    return [text.get_text() for text in panel.texts]


def parts(panel, kind):
    return [patch for patch in panel.patches if isinstance(patch, kind)]


class TestFigures(FiguresKeepTheRules):
    """The rules of every figure, for these."""

    figures = FIGURES
    one_axis = frozenset({"ring_timeline"})


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8])
def test_every_square_of_the_chart_names_the_rank_that_the_schedule_says(ranks):
    panel = plots.ring_chart(trace(ranks)).axes[0]
    boxes = parts(panel, Rectangle)
    names = [text for text in panel.texts if text.get_text() in {f"texts {p}" for p in range(ranks)}]
    assert len(boxes) == len(names) == 2 * ranks * ranks
    columns = sorted({box.get_x() for box in boxes})
    for box, name in zip(boxes, names):
        step, rank = columns.index(box.get_x()) % ranks, round(box.get_y() + 0.4)
        owner = (rank - step) % ranks
        assert name.get_text() == f"texts {owner}"
        assert box.get_facecolor()[:3] == drawn._pale(drawn.RANKS[owner])


def test_the_chart_tells_the_bytes_that_are_sent_and_held():
    upper, lower = FIGURES["ring_chart"]().axes
    block = 3 * 5 * 4
    size = format_bytes(block)
    sent = [text for text in texts(upper) if text == "nothing" or size in text]
    both = f"texts {size}\ngrads {size}"
    assert sent == [*[f"texts {size}"] * 3, "nothing", f"texts {size}", both, both, f"grads {size}"]
    assert [bar.get_height() / block for bar in lower.patches] == [2, 2, 2, 1, 2, 3, 5, 4]
    assert [line.get_ydata()[0] / block for line in lower.lines] == [4, 8]  # all blocks, and all with their gradients


def test_shards_of_different_sizes_are_held_as_they_come():
    sides = random_features(8, 5)
    ring = LocalRing(3)
    ring_clip_loss(ring, *(side.split([1, 2, 5]) for side in sides), 14.3)
    sweep = drawn._sweeps(ring.trace)[0]
    for rank in range(3):
        counts = [1, 2, 5]
        for step in range(3):
            arriving = counts[(rank - step - 1) % 3] if step < 2 else 0
            held = 20 * (counts[(rank - step) % 3] + arriving)
            assert drawn.visiting_bytes(sweep, step, rank) == held


def test_a_gradient_in_the_making_meets_the_one_that_leaves_and_the_one_that_arrives():
    sides = [side.requires_grad_() for side in random_features(10, 5)]
    ring, counts = LocalRing(4), [1, 2, 4, 3]
    ring_clip_loss(ring, *(side.split(counts) for side in sides), 14.3).sum().backward()
    sweep = drawn._sweeps(ring.trace)[1]
    # Rank 0 at step 2: texts 2 here, 1 arriving; gradient 2 in the making, 3 leaving, 2 arriving.
    assert drawn.visiting_bytes(sweep, 2, 0) == 20 * (4 + 2 + 4 + 3 + 4)


def test_a_loss_without_backward_is_one_sweep_and_siglip_too():
    assert "in one sweep" in plots.ring_chart(trace(backward=False)).alt_text
    assert "sigmoid" in texts(plots.ring_chart(trace(loss="siglip")).axes[0])


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_each_frame_of_the_film_shows_who_holds_what_and_where_it_goes(ranks):
    figure = plots.ring_film(trace(ranks))
    assert len(figure.axes) == ranks
    for step, panel in enumerate(figure.axes):
        circles, squares, arrows = (parts(panel, kind) for kind in (Circle, Rectangle, FancyArrowPatch))
        held = [(rank - step) % ranks for rank in range(ranks)]
        assert [text for text in texts(panel) if text.isdigit()] == [str(owner) for owner in held]
        assert [box.get_facecolor()[:3] for box in squares] == [drawn._pale(drawn.RANKS[owner]) for owner in held]
        assert len(circles) == ranks
        assert len(arrows) == (ranks if step + 1 < ranks else 0)


def test_the_bars_have_the_bytes_per_element_of_their_schemes():
    figure = FIGURES["ring_bytes"]()
    assert [bar.get_width() for bar in parts(figure.axes[0], Rectangle)] == [6, 3, 12, 8]
    assert [bar.get_x() for bar in parts(figure.axes[0], Rectangle)] == [0, 6, 0, 12]
    assert texts(figure.axes[0]) == ["9", "20"]
    assert figure.get_suptitle() == "ours: 9 bytes per element, theirs: 20"


@pytest.mark.parametrize(("transfer", "before", "words"), [(1, 8, "the transfer is hidden"), (3, 11, "waits for 27%")])
def test_the_model_adds_up_what_can_overlap_and_what_cannot(transfer, before, words):
    figure = plots.ring_timeline(2e-3, transfer * 1e-3, 4)
    for panel, end in zip(figure.axes, (before, 8 + 3 * transfer)):
        bars = parts(panel, Rectangle)
        assert max(bar.get_x() + bar.get_width() for bar in bars) == pytest.approx(end)
        assert f"{end} ms" in panel.get_title(loc="left")
    assert words in figure.get_suptitle()
    assert "Model" in figure.get_suptitle()


def test_a_title_may_be_given():
    assert plots.ring_chart(trace(), title="A finding").get_suptitle() == "A finding"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plots.ring_chart([]), "trace has 0"),
        (lambda: plots.ring_chart([e for e in trace() if e.step is None]), "trace tells of no step"),
        (lambda: plots.ring_film(trace(9)), "trace has 9 ranks"),
        (lambda: plots.ring_film(trace(1)), "trace has 1 ranks"),
        (lambda: plots.ring_bytes({}, 1), "schemes has 0"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
