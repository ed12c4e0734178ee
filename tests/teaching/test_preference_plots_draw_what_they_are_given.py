"""The pictures of lesson 09 hold the numbers that went in, and keep the promises of all figures."""

import pytest
import torch
from matplotlib.patches import Rectangle
from support.figure_rules import FiguresKeepTheRules

from minilib.teaching import plots

RUNS = {
    "one": {"chosen": torch.tensor([-2.0, -1.5, -1.0]), "wrong": [-2.0, -2.5, -2.25]},
    "two": {"chosen": [-2.0, -2.5, -3.0], "wrong": [-2.0, -3.5, -4.0]},
}
MARGINS = [-1.0, 0.0, 1.0]
LOSSES = {"mild": [1.5, 1.0, 0.25], "hard": [8.0, 3.0, 0.5]}
SLOPES = {"mild": [0.75, 0.5, 0.25], "hard": [5.0, 4.0, 0.125]}
TARGETS = {"mild": 0.5, "hard": 0.25}
PUSHES = {"sums": {"shared": 0.0, "fact": 1.0, "lost": -1.0}, "means": {"shared": -0.4, "fact": 1.0, "lost": -1.4}}
PAIRS = {"near": (-0.5, 1.25), "far": (0.75, 0.4375)}
FIGURES = {
    "answer_curves": lambda: plots.answer_curves(RUNS),
    "loss_vs_margin": lambda: plots.loss_vs_margin(MARGINS, LOSSES, SLOPES, TARGETS),
    "push_bars": lambda: plots.push_bars(PUSHES),
    "mean_inside": lambda: plots.mean_inside(MARGINS, LOSSES["mild"], PAIRS),
}


def texts(panel):
    return [text.get_text() for text in panel.texts]


class TestFigures(FiguresKeepTheRules):
    """The rules of every figure, for these."""

    figures = FIGURES


def test_every_answer_has_its_curve_in_every_panel_on_one_scale():
    figure = FIGURES["answer_curves"]()
    for panel, (run, curves) in zip(figure.axes, RUNS.items(), strict=True):
        assert panel.get_title() == run
        assert [line.get_ydata().tolist() for line in panel.lines] == [list(map(float, c)) for c in curves.values()]
        assert [line.get_label() for line in panel.lines] == list(curves)
        assert panel.get_ylim() == figure.axes[0].get_ylim()


def test_the_title_says_in_which_runs_the_chosen_answer_rises():
    figure = FIGURES["answer_curves"]()
    assert figure.get_suptitle() == "The chosen answer rises under one, falls under two"
    assert "rises under one, falls under two" in figure.alt_text


def test_loss_and_push_stand_beside_each_other_with_their_targets():
    figure = FIGURES["loss_vs_margin"]()
    for panel, curves in zip(figure.axes, (LOSSES, SLOPES), strict=True):
        drawn = {line.get_label(): line.get_ydata().tolist() for line in panel.lines if len(line.get_xdata()) == 3}
        assert drawn == curves
        marked = [line.get_xdata()[0] for line in panel.lines if len(line.get_xdata()) == 2]
        assert marked == list(TARGETS.values())
    assert figure.get_suptitle() == "Hard pushes hardest"


def test_bars_have_the_length_the_sign_and_the_label_of_their_push_on_one_scale():
    figure = FIGURES["push_bars"]()
    for panel, (name, bars) in zip(figure.axes, PUSHES.items(), strict=True):
        drawn = [patch for patch in panel.patches if isinstance(patch, Rectangle)]
        assert panel.get_title() == name
        assert [bar.get_width() for bar in drawn] == list(bars.values())
        assert [bool(bar.get_hatch()) for bar in drawn] == [value < 0 for value in bars.values()]
        assert panel.get_xlim() == figure.axes[0].get_xlim()
    assert texts(figure.axes[0]) == ["0", "+1.00", "-1.00"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["shared", "fact", "lost"]
    low, high = figure.axes[0].get_xlim()
    assert low < -1.4
    assert high > 1.0


def test_the_chord_lies_above_the_curve_and_both_means_are_told():
    panel = FIGURES["mean_inside"]().axes[0]
    # Mean margin 0.125: the loss there is 1 - 0.125 * 0.75; the mean of the losses 0.84375.
    told = [text for text in texts(panel) if ":" in text]
    assert told == ["mean of the pairs' losses: 0.84", "loss of the mean: 0.91"]
    marks = [line.get_ydata()[0] for line in panel.lines if len(line.get_ydata()) == 1]
    assert marks == pytest.approx([0.84375, 0.90625])
    assert {"near", "far"} <= set(texts(panel))


def test_a_title_may_be_given():
    assert plots.push_bars(PUSHES, title="A finding").get_suptitle() == "A finding"
    assert plots.push_bars(PUSHES, xlabel="share").axes[0].get_xlabel() == "share"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plots.answer_curves({}), "runs has 0"),
        (lambda: plots.answer_curves({"one": {"chosen": [1, 2], "wrong": [1]}}), "one, wrong has 1"),
        (lambda: plots.loss_vs_margin([0.0], LOSSES, SLOPES, TARGETS), "margins has 1"),
        (lambda: plots.loss_vs_margin(MARGINS, LOSSES, SLOPES, {"mild": 1}), "targets has 1"),
        (lambda: plots.push_bars({"a": {"x": 1.0}, "b": {"y": 1.0}}), "pushes of 'b' are for"),
        (lambda: plots.mean_inside(MARGINS, [1.0], PAIRS), "losses has 1"),
        (lambda: plots.mean_inside(MARGINS, LOSSES["mild"], {}), "pairs has 0"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
