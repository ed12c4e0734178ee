"""Pictures of training and of what a trained model finds: curves, recall, images with their captions.

Used in notebooks 00 and 07 and by the tour.
"""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from minilib.teaching.plots.canvas import axes, canvas, label, numbers, same_length
from minilib.teaching.plots.palette import BLUE, COUNT, FONT, GREY, INK, LINES


def loss_curves(
    curves: Mapping[str, Sequence[float]], steps: Sequence[int] | None = None, *, title: str | None = None
) -> Figure:
    """Loss against training step, `{name: values}`; the first curve is drawn wide, so that one lying on it shows.

    `steps` are the step numbers, 1, 2, 3 and on by default; curves may differ in length if they share their start.
    """
    same_length(curves=curves)
    longest = max(map(len, curves.values()))
    steps = list(steps) if steps is not None else list(range(1, longest + 1))
    if len(steps) < longest:
        raise ValueError(f"steps has {len(steps)} entries and a curve {longest}: pass one step number for each value")
    alt = f"Loss against training step for {', '.join(curves)}. {_trend(curves)}"
    figure = canvas(title or "Loss during training", alt)
    panel = axes(figure, xlabel="training step", ylabel="loss (nats)")
    for k, ((name, values), (colour, marker, style)) in enumerate(zip(curves.items(), LINES * 3, strict=False)):
        values, every = numbers(values), max(1, len(values) // 8)
        look = {"linewidth": 1.8, "linestyle": style}
        if k == 0 and len(curves) > 1:
            look = {"linewidth": 5, "alpha": 0.5, "linestyle": "-"}
        panel.plot(steps[: len(values)], values, color=colour, marker=marker, markevery=every, label=name, **look)
    panel.legend(fontsize=9, frameon=False)
    panel.xaxis.get_major_locator().set_params(integer=True)
    return figure


def recall_vs_batch(
    batches: Sequence[int], recall: Mapping[str, tuple], *, chance: float | None = None, title: str | None = None
) -> Figure:
    """Recall against batch size, `{name: (mean, low, high)}`, three sequences of shares; the band spans the seeds."""
    for name, spread in recall.items():
        parts = zip(("mean", "low", "high"), spread, strict=True)
        same_length(batches=batches, **{f"{name} {part}": values for part, values in parts})
    alt = f"Recall against batch size, {batches[0]:,} to {batches[-1]:,}, at equal pairs seen, for "
    alt += f"{', '.join(recall)}; bands span the seeds. {_rise(recall)}"
    figure = canvas(title or "Recall against batch size, at equal pairs seen", alt)
    panel = axes(figure, xlabel="batch size (pairs)", ylabel="recall")
    for (name, (mean, low, high)), (colour, marker, style) in zip(recall.items(), LINES, strict=False):
        panel.semilogx(batches, mean, color=colour, marker=marker, linestyle=style, base=2, label=name)
        panel.fill_between(batches, numbers(low), numbers(high), color=colour, alpha=0.2)
    if chance is not None:
        panel.axhline(chance, color=GREY, linestyle=":")
        label(panel, "chance", batches[0], chance, xytext=(0, 6))
    panel.legend(fontsize=9, frameon=False)
    panel.xaxis.set_major_formatter(COUNT)
    panel.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}" if abs(share * 100 % 1) < 1e-6 else f"{share:.1%}")
    panel.set_ylim(bottom=0)
    panel.margins(x=0.18)
    return figure


def image_grid(images, captions: Sequence[str], *, columns: int = 4, title: str | None = None) -> Figure:
    """Images `(n, 3, H, W)`, uint8, each above its caption."""
    pictures = _pictures(images)
    same_length(images=pictures, captions=captions)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    alt = f"{len(pictures)} pictures with their captions, the first: {captions[0]}. "
    alt += "Each caption is true of its picture."
    figure = canvas(title or "Each picture has one caption", alt, size=(2.0 * columns, 0.5 + 2.4 * rows))
    for k, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        panel = figure.add_subplot(rows, columns, k + 1)
        panel.imshow(picture, interpolation="nearest")
        panel.set_axis_off()
        panel.set_title(_folded(caption, 26), fontsize=9, color=INK, y=-0.04, va="top")
    return figure


def retrieval_examples(
    image, captions: Sequence[str], scores: Sequence[float], truth: int | None, *, title: str | None = None
) -> Figure:
    """One image `(3, H, W)` and the captions that a model ranks highest for it, best first.

    `truth` is the place of its own caption, counted from 0, or None when that is not among them.
    """
    same_length(captions=captions, scores=scores)
    place = "not among them" if truth is None else f"at place {truth + 1}"
    alt = f"A picture and the {len(captions)} captions that a model ranks highest for it. Its own caption is {place}."
    figure = canvas(title or f"The picture's own caption is {place}", alt, size=(8.0, 1.0 + 0.5 * len(captions)))
    left, right = figure.add_gridspec(1, 2, width_ratios=(1, 3))
    panel = figure.add_subplot(left)
    panel.imshow(_pictures(image[None])[0], interpolation="nearest")
    panel.set_axis_off()
    panel = figure.add_subplot(right)
    bars = panel.barh(range(len(captions)), numbers(scores), color="#d0d0d0", height=0.75)
    if truth is not None:
        bars[truth].set(color="#9fd0ee", hatch="//", edgecolor=BLUE)
    for y, caption in enumerate(captions):
        label(panel, ("✓ " if y == truth else "") + _folded(caption, 60), min(0.0, float(min(scores))), y)
    panel.invert_yaxis()
    panel.set_yticks([])
    panel.set_xlabel("similarity", fontsize=FONT, color=INK)
    panel.tick_params(labelsize=9)
    panel.spines[["top", "right", "left"]].set_visible(False)
    return figure


def _pictures(images) -> np.ndarray:
    values = np.asarray(images)
    if values.ndim != 4 or values.shape[1] != 3 or values.dtype != np.uint8:
        raise ValueError(f"images is {values.dtype} of shape {values.shape}: pass uint8 pictures of shape (n, 3, H, W)")
    return values.transpose(0, 2, 3, 1)  # (n, H, W, 3)


def _trend(curves: Mapping[str, Sequence[float]]) -> str:
    falls = all(float(values[-1]) < float(values[0]) for values in curves.values())
    return f"{'Every' if falls else 'Not every'} curve ends lower than it starts."


def _rise(recall: Mapping[str, tuple]) -> str:
    rises = all(float(mean[-1]) > float(mean[0]) for mean, _, _ in recall.values())
    return f"The largest batch {'does' if rises else 'does not always do'} better than the smallest."


def _folded(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width))
