"""Pictures of the contrastive loss itself: the matrix of similarities, its softmax, and what the batch size does to it.

Used in notebooks 00, 01, 02 and 07.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from minilib.teaching.plots.canvas import axes, canvas, label, numbers, same_length
from minilib.teaching.plots.palette import BLUE, COUNT, GREY, INK, LINES, VERMILLION

WRITTEN = 8  # up to this many rows, the numbers are written into the cells


def similarity_matrix(matrix, captions: Sequence[str] | None = None, *, title: str | None = None) -> Figure:
    """A `(b, b)` matrix of similarities or logits, images down, texts across, true pairs framed on the diagonal."""
    values = numbers(matrix)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not len(values):
        raise ValueError(f"matrix has shape {values.shape}, but each image has one text: pass a square (b, b) matrix")
    if captions is not None:
        same_length(matrix=values, captions=captions)
    best = (values.argmax(1) == np.arange(len(values))).mean()
    alt = f"Heat map of a {len(values)} by {len(values)} similarity matrix, images as rows, texts as columns. "
    alt += f"The framed diagonal holds the true pairs; it is the largest entry in {best:.0%} of the rows."
    figure = canvas(title or f"The true pair wins in {best:.0%} of the rows", alt, size=(5.6, 4.6))
    panel = axes(figure, xlabel="text", ylabel="image")
    image = panel.imshow(values, cmap="cividis")
    figure.colorbar(image, ax=panel, shrink=0.8).ax.tick_params(labelsize=9)
    _frame_diagonal(panel, len(values))
    if len(values) <= WRITTEN:
        _write_cells(panel, values)
    ticks = range(len(values)) if len(values) <= 2 * WRITTEN else []
    panel.set_xticks(ticks)
    panel.set_yticks(ticks)
    if captions and len(ticks):
        panel.set_xticklabels(captions, rotation=45, ha="right")
    return figure


def pairs_seen(seen, *, title: str | None = None) -> Figure:
    """A `(b, b)` boolean matrix: which pairs one training step compares (filled cells)."""
    values = numbers(seen)
    share = values.mean()
    alt = f"A {len(values)} by {values.shape[1]} grid of pairs, filled where one step compares image and text. "
    alt += f"{share:.0%} of it is filled."
    figure = canvas(title or f"The step compares {share:.0%} of all pairs", alt, size=(4.4, 4.2))
    panel = axes(figure, xlabel="text", ylabel="image")
    panel.pcolormesh(values, cmap="Blues", vmin=0, vmax=1.4, edgecolors=GREY, linewidth=0.4 if len(values) <= 64 else 0)
    panel.set(aspect="equal", ylim=(len(values), 0))
    return figure


def temperature_effect(
    rows: Mapping[float, Sequence[float]], captions: Sequence[str] | None = None, *, truth: int = 0,
    title: str | None = None,
) -> Figure:  # fmt: skip
    """One softmax row at several scales, `{scale: probabilities}`, a panel each; the true text's bar is dark."""
    same_length(rows=rows)
    scales = list(rows)
    first, last = (float(rows[s][truth]) for s in (scales[0], scales[-1]))
    told = ", ".join(f"{scale:g}" for scale in scales)
    alt = f"Bars of softmax probability over {len(rows[scales[0]])} texts at scales {told}. "
    alt += f"The true text goes from {first:.2f} to {last:.2f}: a larger scale makes the row more decided."
    heading = f"Scale {scales[0]:g} to {scales[-1]:g}: the true text goes from {first:.2f} to {last:.2f}"
    figure = canvas(title or heading, alt, size=(8.0, 2.9))
    for k, (scale, row) in enumerate(rows.items()):
        names = {"xlabel": "" if captions else "text", "ylabel": "" if k else "probability"}
        panel = axes(figure, 1, len(rows), k + 1, title=f"scale {scale:g}", **names)
        bars = panel.bar(range(len(row)), numbers(row), color=GREY)
        bars[truth].set(color=BLUE, hatch="//", edgecolor="white")
        panel.set(ylim=(0, 1.05), xticks=range(len(row)))
        panel.tick_params(labelleft=k == 0)
        if captions:
            panel.set_xticklabels(captions, rotation=60, ha="right")
    return figure


def loss_vs_batch(batches: Sequence[int], losses: Mapping[str, Sequence[float]], *, title: str | None = None) -> Figure:
    """Loss against batch size with the line log b, the loss of a model that knows nothing."""
    same_length(batches=batches, **losses)
    alt = f"Loss against batch size, {batches[0]:,} to {batches[-1]:,}, for {', '.join(losses)}, with the line log b. "
    alt += "The loss grows with the batch although the model stays the same: compare it with log b, not with zero."
    figure = canvas(title or "The same model has a larger loss in a larger batch", alt)
    panel = axes(figure, xlabel="batch size b (pairs)", ylabel="loss (nats)")
    panel.semilogx(batches, np.log(numbers(batches)), color=INK, linestyle=":", base=2)
    label(panel, "log b", batches[0], np.log(batches[0]), xytext=(-4, 12))
    for (name, values), (colour, marker, style) in zip(losses.items(), LINES, strict=False):
        panel.semilogx(batches, numbers(values), color=colour, marker=marker, linestyle=style, base=2)
        label(panel, name, batches[-1], float(values[-1]))
    panel.xaxis.set_major_formatter(COUNT)
    panel.margins(x=0.15)
    return figure


def _frame_diagonal(panel, size: int) -> None:
    for k in range(size if size <= 4 * WRITTEN else 0):
        low, high = k - 0.5, k + 0.5
        panel.plot([low, high, high, low, low], [low, low, high, high, low], color=VERMILLION)


def _write_cells(panel, values: np.ndarray) -> None:
    middle = (values.min() + values.max()) / 2
    for (row, col), value in np.ndenumerate(values):
        colour = "white" if value < middle else INK
        label(panel, f"{value:.2f}", col, row, xytext=(0, 0), ha="center", color=colour)
