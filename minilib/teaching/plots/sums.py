"""Pictures of the running log-sum-exp and of the tiles it is folded over.

Drawn from what the code recorded: the logits, the running states, and the order in which tiles were visited. Used in
notebooks 03 and 04.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from minilib.teaching.plots.canvas import axes, box, canvas, label, numbers, same_length
from minilib.teaching.plots.palette import BLUE, GREY, ORANGE, VERMILLION

LARGEST_FILM = 8  # frames; a longer strip cannot be read


def running_max_film(blocks: Sequence, states: Sequence, *, title: str | None = None) -> Figure:
    """A film strip: block after block of logits arrives, and the state (m, s) follows.

    `blocks` are one-dimensional logits, at most eight blocks; `states[k]` is the state `(m, s)` after block k.
    """
    same_length(blocks=blocks, states=states)
    if (count := len(blocks)) > LARGEST_FILM:
        raise ValueError(f"blocks has {count} entries, but a film strip shows 8: pass the first 8 or larger blocks")
    blocks, states = [numbers(b) for b in blocks], [(float(m), float(s)) for m, s in states]
    raised = [k + 1 for k in range(1, len(states)) if states[k][0] > states[k - 1][0]]
    alt = (
        f"Film strip of {len(blocks)} frames. In each, one more block of logits joins as bars, with a line at the "
        f"running maximum m. {_told('Frame', raised)} m; there the sum s is rescaled."
    )
    figure = canvas(title or "The maximum follows the largest logit; the sum is rescaled to it", alt, size=(8.0, 2.9))
    seen, width, every = np.empty(0), sum(map(len, blocks)), np.concatenate(blocks)
    for k, (block, (m, s)) in enumerate(zip(blocks, states, strict=True)):
        names = {"title": f"m = {m:.3g}\ns = {s:.3g}", "xlabel": f"block {k + 1}", "ylabel": "" if k else "logit"}
        panel = axes(figure, 1, len(blocks), k + 1, **names)
        panel.bar(range(len(seen)), seen, color=GREY)
        panel.bar(range(len(seen), len(seen) + len(block)), block, color=BLUE, hatch="//", edgecolor="white")
        panel.axhline(m, color=ORANGE, linewidth=2)
        panel.set(xlim=(-0.6, width - 0.4), xticks=[], ylim=_span(every))
        panel.tick_params(labelleft=k == 0)
        seen = np.concatenate([seen, block])
    return figure


def tile_order(
    rows: int, cols: int, visits: Sequence[tuple], *, upto: int | None = None, title: str | None = None
) -> Figure:
    """The `(rows, cols)` logit matrix cut into tiles, numbered in the order of `visits`, a list of `(i, j)` slices.

    `upto` draws the state after that many visits: the last one is framed, the later ones stay empty.
    """
    same_length(visits=visits)
    upto = len(visits) if upto is None else upto
    covered = sum((i.stop - i.start) * (j.stop - j.start) for i, j in visits[:upto])
    alt = (
        f"A {rows} by {cols} matrix cut into {len(visits)} tiles, numbered in the order of their visit. "
        f"After {upto} visits {covered / (rows * cols):.0%} of the matrix has been seen, one tile at a time."
    )
    size = (5.2, 0.9 + 4.3 * min(1.0, rows / cols))
    figure = canvas(title or f"{len(visits)} tiles, one in memory at a time", alt, size=size)
    panel = axes(figure, xlabel="text (column)", ylabel="image (row)")
    for number, (i, j) in enumerate(visits):
        done, current = number < upto, number == upto - 1
        shade = colormaps["Blues"](0.15 + 0.4 * number / max(1, len(visits) - 1)) if done else "white"
        frame = {"edgecolor": VERMILLION, "linewidth": 3, "zorder": 3} if current else {"edgecolor": GREY, "zorder": 2}
        place = j.start, i.start, j.stop - j.start, i.stop - i.start
        box(panel, *place, str(number + 1) if len(visits) <= 100 else "", facecolor=shade, **frame)
    panel.set(xlim=(0, cols), ylim=(rows, 0), aspect="equal")
    return figure


def overflow_curve(
    scales: Sequence[float], naive: Sequence[float], stable: Sequence[float], *, title: str | None = None
) -> Figure:
    """The log-sum-exp over the logit scale, by exponentials alone (`naive`, may be infinite) and with the shift."""
    same_length(scales=scales, naive=naive, stable=stable)
    scales, naive, stable = numbers(scales), numbers(naive), numbers(stable)
    broken = scales[~np.isfinite(naive)]
    heading, found = "Both agree here", "They agree throughout."
    if len(broken):
        heading = f"Without the shift, the sum is gone at scale {broken[0]:.3g}"
        found = f"They agree until the plain one overflows at scale {broken[0]:.3g}."
    alt = f"Log-sum-exp against logit scale, two curves, with and without subtracting the maximum. {found}"
    figure = canvas(title or heading, alt)
    panel = axes(figure, xlabel="logit scale s", ylabel="log-sum-exp")
    panel.plot(scales, stable, color=BLUE, linewidth=2)
    plain = np.where(np.isfinite(naive), naive, np.nan)
    panel.plot(scales, plain, "s", color=VERMILLION, markersize=5, markerfacecolor="none")
    corner = {"xycoords": "axes fraction", "xytext": (0, 0)}
    label(panel, "line: the maximum subtracted first", 0.03, 0.95, **corner)
    label(panel, "squares: exponentials alone", 0.03, 0.87, **corner)
    if len(broken):
        panel.axvline(broken[0], color=VERMILLION, linestyle="--")
        label(panel, "overflow: inf", broken[0], stable.min(), xytext=(6, 4))
    return figure


def _span(values: np.ndarray) -> tuple[float, float]:
    low, high = min(0.0, values.min()), max(0.0, values.max())
    return low - 0.1 * (high - low), high + 0.1 * (high - low) + 1e-9


def _told(noun: str, which: list[int]) -> str:
    if not which:
        return "No later frame raises"
    return f"{noun} {which[0]} raises" if len(which) == 1 else f"{noun}s {', '.join(map(str, which))} raise"
