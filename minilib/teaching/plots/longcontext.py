"""Pictures of a long context: the needle map, accuracy by distance and by place, perplexity, and what heads find.

    distance = T + q - 1 - depth (T - n)          in_reach = distance < window

where
    T, n, q     tokens of the context, of the fact hidden in it, and of the question behind it
    distance    from the last token of the prompt, where the answer begins, back to the fact's first token

Training on a window of W tokens shows the distances 0 to W - 1, so a cell in reach asks for nothing new.

Drawn in notebook 08.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from minilib.teaching.plots.canvas import axes, canvas, label, mark, numbers, same_length
from minilib.teaching.plots.palette import BLUE, COUNT, GREY, INK, LINES, ORANGE, SHARE, SKY, VERMILLION

if TYPE_CHECKING:
    from minilib.evals.longcontext import Curve

OUTCOMES = ("found, right", "found, wrong", "missed, right", "missed, wrong")
LOOKS = [(BLUE, ""), (ORANGE, "//"), (SKY, ".."), ("#dddddd", "\\\\")]


def in_reach(depths: Sequence[float], lengths: Sequence[int], window: int, *, question: int, needle: int = 4):
    """Which cells (depths, lengths) of a needle map ask for a distance that a window of training holds, as booleans."""
    depth, length = numbers(depths)[:, None], numbers(lengths)
    return length + question - 1 - depth * (length - needle) < window


def needle_map(
    depths: Sequence[float], lengths: Sequence[int], accuracy: Sequence[Sequence[float]], window: int, *,
    question: int = 10, title: str | None = None,
) -> Figure:  # fmt: skip
    """Share of right answers `(depths, lengths)`; the cells whose distance lies in the trained window are outlined."""
    shares, inside = numbers(accuracy), in_reach(depths, lengths, window, question=question)
    if shares.shape != inside.shape:
        raise ValueError(f"accuracy has shape {shares.shape} for {len(depths)} depths and {len(lengths)} lengths")
    least = "nearly all answers are right" if (shares[inside] >= 0.9).all() else "some answers are wrong"
    most = "most answers of some cells are wrong" if (shares[~inside] < 0.5).any() else "no cell falls below a half"
    alt = f"Map of right answers at {len(depths)} depths and {len(lengths)} lengths from {lengths[0]:,} to "
    alt += f"{lengths[-1]:,} tokens. Where the distance fits the trained window, outlined, {least}; beyond, {most}."
    heading = f"Within {window} positions {shares[inside].mean():.0%} right, beyond {shares[~inside].mean():.0%}"
    figure = canvas(title or heading, alt, size=(6.8, 3.8))
    panel = axes(figure, xlabel="tokens of the text", ylabel="depth of the fact")
    draw_map(panel, depths, lengths, shares, inside)
    # The two ends of the axis in words: which of them is next to the question is easily forgotten.
    for y, words in ((0, "beginning"), (1, "next to the question")):
        place = {"xycoords": "axes fraction", "rotation": 90, "va": "bottom" if y else "top", "ha": "left"}
        label(panel, words, 1.01, 1 - y, **place)
    return figure


def head_scores(scores: Mapping[str, Sequence[Sequence[float]]], *, title: str | None = None) -> Figure:
    """Copy scores (layers, heads), one map for each name; the same colours in all."""
    same_length(scores=scores)
    values = {name: numbers(score) for name, score in scores.items()}
    clear = sum((score >= 0.5).sum() for score in values.values()) / len(values)
    few = "Few heads stand out: in most heads" if clear <= 3 else "Many heads stand out: in the others"
    alt = f"Maps of the copy score of every head, by layer and head, for {', '.join(values)}. {few} the score is "
    alt += "near nought."
    heading = "Few heads fetch the fact" if clear <= 3 else "Many heads fetch the fact"
    figure = canvas(title or heading, alt, size=(6.8, 2.9))
    for column, (name, score) in enumerate(values.items()):
        ylabel = "" if column else "layer"
        panel = axes(figure, 1, len(values), column + 1, xlabel="head", ylabel=ylabel, title=name)
        _cells(panel, score, *map(range, score.shape))
    return figure


def accuracy_by_distance(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], window: int, *, title: str | None = None
) -> Figure:
    """Right answers against the distance to the fact: a curve (distances, shares) for each way to make distance."""
    same_length(curves=curves)
    fall = [shares[-1] < shares[0] - 0.3 for _, shares in curves.values()]
    alt = f"Curves of right answers against the distance to the fact, for {', '.join(curves)}. "
    alt += f"{'All fall' if all(fall) else 'Not all fall'} with distance; a line marks the {window} trained."
    figure = canvas(title or "What breaks the answer is the distance", alt)
    panel = axes(figure, xlabel="positions from the fact to the answer", ylabel="right answers")
    for (name, (x, shares)), (colour, marker, line) in zip(curves.items(), LINES):
        same_length(distances=x, shares=shares)
        panel.plot(x, shares, color=colour, marker=marker, linestyle=line, label=name)
    mark(panel, window, "window", 0.03)
    panel.legend(fontsize=9, frameon=False)
    panel.yaxis.set_major_formatter(SHARE)
    panel.set_ylim(-0.05, 1.08)
    return figure


def lost_in_the_middle(curves: Mapping[str, Curve], *, title: str | None = None) -> Figure:
    """Accuracy by place with 95 % intervals, a `Curve` for each name; the anchors of the first are dashed."""
    same_length(curves=curves)
    first = next(iter(curves.values()))
    ends = [(c.accuracy[0] + c.accuracy[-1]) / 2 - min(c.accuracy[1:-1]) > 0.2 for c in curves.values()]
    alt = f"Curves of right answers against the depth of the fact for {', '.join(curves)}, with intervals, between the "
    alt += f"anchors of no document and only the facts. {'A' if any(ends) else 'No'} curve sags in the middle."
    figure = canvas(title or f"{'A' if any(ends) else 'No'} curve sags in the middle", alt)
    panel = axes(figure, xlabel="depth of the fact (0 beginning, 1 next to the question)", ylabel="right answers")
    for (name, curve), (colour, marker, line) in zip(curves.items(), LINES):
        shares = numbers(curve.accuracy)
        low, high = numbers(curve.intervals).T
        reach = np.maximum([shares - low, high - shares], 0)
        style = {"color": colour, "marker": marker, "linestyle": line, "capsize": 3, "label": name}
        panel.errorbar(curve.depths, shares, yerr=reach, **style)
    for height, words in ((first.closed_book, "no document"), (first.oracle, "only the facts")):
        panel.axhline(height, color=GREY, linewidth=1, linestyle="--")
        label(panel, words, 1.02, height, xytext=(0, 7), ha="right")
    panel.legend(fontsize=9, frameon=False, loc="center right")
    panel.yaxis.set_major_formatter(SHARE)
    panel.set_ylim(-0.05, 1.15)
    return figure


def perplexity_by_position(buckets: Mapping[int, float], window: int, *, title: str | None = None) -> Figure:
    """Perplexity of running text by buckets of positions `{first position: perplexity}`, and the trained window."""
    if len(buckets) < 2:
        raise ValueError(f"buckets has {len(buckets)}: pass at least two, so that their width is known")
    starts, values = numbers(list(buckets)), numbers(list(buckets.values()))
    width, inside = starts[1] - starts[0], starts < window
    worse = values[~inside].mean() > values[inside].mean() if (~inside).any() else False
    trend = "higher than" if worse else "no higher than"
    alt = f"Bars of perplexity in {len(values)} buckets of positions up to {starts[-1] + width:,.0f}. "
    alt += f"Beyond the trained window they are on average {trend} inside."
    figure = canvas(title or f"Beyond the window perplexity is {trend} inside", alt)
    panel = axes(figure, xlabel="position in the text (tokens)", ylabel="perplexity")
    for mask, colour, hatch in ((inside, BLUE, ""), (~inside, VERMILLION, "//")):
        style = {"width": 0.9 * width, "align": "edge", "color": colour, "hatch": hatch, "edgecolor": "white"}
        panel.bar(starts[mask], values[mask], **style)
    mark(panel, window, "window ends", values.max() * 1.06)
    panel.set_ylim(0, values.max() * 1.13)
    panel.xaxis.set_major_formatter(COUNT)
    return figure


def found_and_right(counts: Mapping[str, Sequence[int]], *, title: str | None = None) -> Figure:
    """For each name how many answers were `OUTCOMES`: the fact found by a head or missed, the answer right or wrong."""
    same_length(counts=counts)
    gap = "a part" if list(counts.values())[-1][1] > 0 else "no part"
    alt = f"Bars of answers for {', '.join(counts)}, cut into {'; '.join(OUTCOMES)}. "
    alt += f"In the last bar {gap} is found by a head and answered wrongly."
    figure = canvas(title or f"In the last bar {gap} is found and still wrong", alt, size=(6.8, 2.9))
    panel = axes(figure, xlabel="answers", ylabel="tokens of the text")
    for row, values in enumerate(counts.values()):
        same_length(outcomes=OUTCOMES, values=values)
        for start, value, (colour, hatch) in zip(np.cumsum([0, *values]), values, LOOKS):
            panel.barh(row, value, left=start, color=colour, hatch=hatch, edgecolor="white")
            if value:
                box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"}
                label(panel, str(value), start + value / 2, row, xytext=(0, 0), ha="center", bbox=box)
    handles = [panel.barh(0, 0, color=colour, hatch=hatch, edgecolor="white") for colour, hatch in LOOKS]
    figure.legend(handles, OUTCOMES, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    panel.set_yticks(range(len(counts)), list(counts))
    panel.invert_yaxis()
    return figure


def draw_map(panel, depths: Sequence[float], lengths: Sequence[int], shares: np.ndarray, inside, sign: str = "%"):
    """The cells of a needle map, with the border of those `inside`; without a `sign`, maps fit in a row."""
    mesh = _cells(panel, shares, [f"{d:.0%}" for d in depths], [f"{n:,}" for n in lengths], sign)
    _outline(panel, inside)
    panel.set_ylim(len(shares), 0)
    return mesh


def _cells(panel, shares: np.ndarray, rows: Sequence, columns: Sequence, sign: str = "%"):
    """Squares coloured by a share, with the share in percent written in each."""
    mesh = panel.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1.1, edgecolors="white", linewidth=1)
    for (row, column), share in np.ndenumerate(shares):
        ink = "white" if share > 0.6 else INK
        label(panel, f"{100 * share:.0f}{sign}", column + 0.5, row + 0.5, xytext=(0, 0), ha="center", color=ink)
    panel.set_ylim(len(shares), 0)
    panel.tick_params(length=0)
    panel.set_xticks(np.arange(len(columns)) + 0.5, columns)
    panel.set_yticks(np.arange(len(rows)) + 0.5, rows)
    return mesh


def _outline(panel, inside: np.ndarray) -> None:
    """A thick line between the cells that are inside and those that are not."""
    columns = inside.shape[1]
    for row, column in np.argwhere(inside):
        if column + 1 < columns and not inside[row, column + 1]:
            panel.plot([column + 1] * 2, [row, row + 1], color=VERMILLION, linewidth=3)
        if row and not inside[row - 1, column]:
            panel.plot([column, column + 1], [row, row], color=VERMILLION, linewidth=3)
