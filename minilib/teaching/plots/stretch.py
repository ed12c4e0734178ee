"""Pictures of stretched positions: a score beyond its window, rotary frequencies, attention cut at a jump, accuracy.

All were computed, none is a sketch. Drawn in notebook 12.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from minilib.teaching.plots.canvas import axes, canvas, label, mark, numbers, same_length
from minilib.teaching.plots.palette import COUNT, GREEN, INK, LINES, SHARE, VERMILLION

LARGEST_MAP = 64  # tokens; a larger grid cannot be read
FAINTEST = 1e-3  # attention weights below it look alike


def score_beyond_window(
    score: Sequence[float], squeezed: Sequence[float], window: int, *, title: str | None = None
) -> Figure:
    """A score over distances 0, 1, 2, ..., read as it is and read at squeezed distances; the window ends at `window`.

    The scale is linear from -2 to 2 and logarithmic outside.
    """
    same_length(score=score, squeezed=squeezed)
    score, squeezed = numbers(score), numbers(squeezed)
    if not 0 < window < len(score):
        raise ValueError(f"window is {window} and the score has {len(score)} distances: pass some beyond the window")
    inside, beyond = (np.abs(part).max() for part in (score[:window], score[window:]))
    tens = int(np.log10(beyond / inside)) if beyond > inside else 0
    finding = f"Beyond the window the score is more than {10**tens} times" if tens else "Beyond the window it is not"
    size = "stays as small" if np.abs(squeezed).max() < 2 * inside else "grows as well"
    alt = f"A score over {len(score):,} distances as two lines. {finding} larger than inside. The other line, read at "
    alt += f"squeezed distances, {size}."
    figure = canvas(title or "A score that fits inside its window explodes behind it", alt)
    panel = axes(figure, xlabel="distance (positions)", ylabel="attention score, before the softmax")
    panel.axvspan(0, window, color="#eeeeee", linewidth=0)
    label(panel, "trained window", window / 2, 0.97, xytext=(0, 0), xycoords=("data", "axes fraction"), ha="center")
    panel.plot(score, color=VERMILLION, linewidth=1.2, label="read as it is")
    panel.plot(squeezed, color=GREEN, linewidth=1.2, linestyle="--", label="squeezed into the window")
    panel.set_yscale("symlog", linthresh=2)
    panel.legend(fontsize=9, frameon=False, loc="lower left")
    panel.xaxis.set_major_formatter(COUNT)
    return figure


def stretched_frequencies(
    turns: Sequence[float], speeds: Mapping[str, Sequence[float]], *, title: str | None = None
) -> Figure:
    """Speed of each rotary pair after stretching, over its speed before, against its turns in the trained window."""
    same_length(speeds=speeds)
    low = min(float(np.min(numbers(values))) for values in speeds.values())
    alt = f"Lines of the speed left to each of {len(turns)} rotary pairs for {', '.join(speeds)}, against the turns "
    alt += f"that a pair makes in the trained window. The least that is left to a pair is 1/{1 / low:.0f} of its speed."
    figure = canvas(title or "The methods differ in which speeds they leave alone", alt)
    panel = axes(figure, xlabel="turns of the pair within the trained window", ylabel="new speed / old speed")
    for (name, values), (colour, marker, line) in zip(speeds.items(), LINES):
        same_length(turns=turns, **{name: values})
        panel.plot(turns, numbers(values), color=colour, linestyle=line, marker=marker, markersize=3, label=name)
    mark(panel, 1, "one turn", 1.04)
    panel.legend(fontsize=9, frameon=False, loc="center right")
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    panel.set_ylim(0, 1.12)
    return figure


def attention_cut(
    maps: Mapping[str, Sequence[Sequence[float]]], lengths: Sequence[int], *, title: str | None = None
) -> Figure:
    """Attention weights `(k, k)` of the same text, one map per name; `lengths` are the tokens of its chunks."""
    same_length(maps=maps)
    total, borders = sum(lengths), np.cumsum(lengths)[:-1]
    own = np.repeat(np.arange(len(lengths)), lengths)
    told = []
    for name, values in maps.items():
        if numbers(values).shape != (total, total) or total > LARGEST_MAP:
            shape = f"map {name!r} has shape {numbers(values).shape} for {total} tokens"
            raise ValueError(f"{shape}: pass the square of them, {LARGEST_MAP} at most")
        blind = (numbers(values)[own[:, None] > own] == 0).all()
        told.append(f"{name}: {'nothing' if blind else 'something'} is read across a border")
    alt = f"Maps of the attention of {total} tokens in {len(lengths)} chunks. {'; '.join(told)}."
    figure = canvas(title or "Without a mask attention ends at every jump", alt, size=(7.6, 3.9))
    middles = [np.flatnonzero(own == c).mean() + 0.5 for c in range(len(lengths))]
    names = [f"chunk {c + 1}" for c in range(len(lengths))]
    for column, (name, values) in enumerate(maps.items()):
        ylabel = "" if column else "asking"
        panel = axes(figure, 1, len(maps), column + 1, xlabel="seen", ylabel=ylabel, title=name)
        seen = np.ma.masked_equal(numbers(values), 0)  # white is no weight at all
        panel.pcolormesh(seen, cmap="Blues", norm=LogNorm(FAINTEST / 10, 1), edgecolors="#dddddd", linewidth=0.2)
        for border in borders:
            panel.axhline(border, color=INK, linewidth=0.8)
            panel.axvline(border, color=INK, linewidth=0.8)
        panel.set(aspect="equal", ylim=(total, 0), xticks=middles, yticks=middles, xticklabels=names)
        panel.set_yticklabels([] if column else names)
        panel.tick_params(length=0)
    return figure


def answers_by_length(
    lengths: Sequence[int], curves: Mapping[str, Sequence[float]], window: int, *, title: str | None = None
) -> Figure:
    """Share of right answers against the length of the text in tokens, a curve per model; training read `window`."""
    same_length(curves=curves)
    worst = min(curves, key=lambda name: curves[name][-1])
    alt = f"Curves of the share of right answers for texts of {lengths[0]:,} to {lengths[-1]:,} tokens: "
    alt += f"{', '.join(curves)}. At the longest, {worst} answers worst. All were trained on {window:,} tokens."
    figure = canvas(title or f"At {lengths[-1]:,} tokens {worst} answers worst", alt)
    panel = axes(figure, xlabel="tokens of the text", ylabel="right answers")
    for (name, values), (colour, marker, line) in zip(curves.items(), LINES):
        same_length(lengths=lengths, **{name: values})
        panel.plot(lengths, values, color=colour, linestyle=line, marker=marker, label=name)
    mark(panel, window, "trained length", 0.04)
    panel.legend(fontsize=9, frameon=False, loc="lower right")
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(COUNT)
    panel.yaxis.set_major_formatter(SHARE)
    panel.set_ylim(0, 1.05)
    return figure
