"""Pictures of what a loss costs: bytes against batch size, predicted against measured, time against a reference.

Sizes are drawn in bytes on logarithmic axes wherever batch size is the other axis: a dense loss is then a line of
slope 2, a tiled one a line of slope 1, and the memory of the machine a horizontal wall.

Drawn in notebooks 00, 02, 04 and by the tour.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from minilib.teaching.memory import format_bytes
from minilib.teaching.plots.canvas import axes, canvas, label, numbers, same_length
from minilib.teaching.plots.palette import BYTES, COUNT, DENSE, GREY, INK, LINES, MEASURED, PREDICTED, TILED

HATCHES = ["", "//", "..", "xx", "\\\\", "++", "oo", "--"]


def memory_wall(
    batches: Sequence[int], dense_bytes: Sequence[float], tiled_bytes: Sequence[float],
    limit_bytes: float | None = None, *, measured: Mapping[str, Sequence[tuple[int, float]]] | None = None,
    title: str | None = None,
) -> Figure:  # fmt: skip
    """Bytes against batch size, both axes logarithmic, dense against tiled; `limit_bytes` is the wall.

    `measured` adds points, `{"dense": [(batch, bytes), ...], "tiled": [...]}`, filled where the lines are hollow.
    """
    same_length(batches=batches, dense_bytes=dense_bytes, tiled_bytes=tiled_bytes)
    ratio = dense_bytes[-1] / tiled_bytes[-1]
    heading = f"At {batches[-1]:,} pairs, dense needs {ratio:,.0f} times the memory of tiled"
    figure = canvas(title or heading, _wall_alt(batches, dense_bytes, limit_bytes))
    panel = axes(figure, xlabel="batch size (pairs)", ylabel="extra memory")
    for name, values, (colour, marker) in (("dense", dense_bytes, DENSE), ("tiled", tiled_bytes, TILED)):
        panel.loglog(batches, values, marker=marker, linestyle="--", color=colour, markerfacecolor="white")
        label(panel, name, batches[-1], values[-1])
        for batch, size in (measured or {}).get(name, ()):
            panel.loglog(batch, size, marker=marker, markersize=9, color=colour)
    if limit_bytes:
        panel.axhline(limit_bytes, color=INK, linewidth=1.5)
        label(panel, f"memory limit, {format_bytes(limit_bytes)}", batches[0], limit_bytes, xytext=(0, 7))
    if measured:
        label(panel, "filled: measured, hollow: predicted", 0.02, 0.96, xycoords="axes fraction", xytext=(0, 0))
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(COUNT)
    panel.yaxis.set_major_formatter(BYTES)
    panel.margins(x=0.12)
    return figure


def _wall_alt(batches: Sequence[int], dense_bytes: Sequence[float], limit_bytes: float | None) -> str:
    shown = f"Log-log lines of extra memory against batch size, {batches[0]:,} to {batches[-1]:,} pairs, "
    over = [b for b, size in zip(batches, dense_bytes, strict=True) if limit_bytes and size > limit_bytes]
    wall = f" Dense passes the memory limit at {over[0]:,} pairs." if over else ""
    return f"{shown}dense and tiled. Dense grows with the square of the batch, tiled in proportion to it.{wall}"


def predicted_vs_measured(
    labels: Sequence[str], predicted: Sequence[float], measured: Sequence[float], *, title: str | None = None
) -> Figure:
    """Pairs of bars in bytes, predicted (light, hatched) next to measured (dark), with their ratio above."""
    same_length(labels=labels, predicted=predicted, measured=measured)
    ratios = numbers(measured) / numbers(predicted)
    alt = f"Bars of predicted and measured bytes for {', '.join(labels)}. {_agreement(ratios)}"
    figure = canvas(title or f"Measured over predicted: {ratios.min():.2f} to {ratios.max():.2f}", alt)
    panel = axes(figure, ylabel="memory")
    places = np.arange(len(labels))
    panel.bar(places - 0.2, predicted, 0.38, color=PREDICTED, hatch="//", edgecolor="white", label="predicted")
    panel.bar(places + 0.2, measured, 0.38, color=MEASURED, edgecolor="white", label="measured")
    for x, ratio in enumerate(ratios):
        label(panel, f"x {ratio:.2f}", x, max(predicted[x], measured[x]), xytext=(0, 6), ha="center")
    panel.set_xticks(range(len(labels)), labels)
    if max(measured) > 30 * min(measured):  # or the short bars would not be seen
        panel.set_yscale("log")
    panel.yaxis.set_major_formatter(BYTES)
    panel.margins(y=0.15)
    panel.legend(fontsize=9, frameon=False, loc="upper left")
    return figure


def memory_parts(parts: Mapping[str, Mapping[str, float]], *, title: str | None = None) -> Figure:
    """One stacked bar per loss, cut into its named parts: `{"dense": {"logits": bytes, ...}, "tiled": {...}}`.

    Empty parts and the one called `total` are left out: pass what `memory.predict_bytes` returns.
    """
    same_length(parts=parts)
    stacks = {name: {part: n for part, n in named.items() if part != "total" and n} for name, named in parts.items()}
    largest = max(stacks, key=lambda name: sum(stacks[name].values()))
    alt = f"Stacked bars of predicted bytes for {', '.join(stacks)}. "
    alt += f"The longest is {largest}: {', '.join(stacks[largest])}."
    heading = f"{largest.capitalize()} holds {format_bytes(sum(stacks[largest].values()))}"
    figure = canvas(title or heading, alt, size=(6.4, 1.5 + 1.1 * len(stacks)))
    for row, (name, stack) in enumerate(stacks.items()):
        panel = axes(figure, len(stacks), 1, row + 1, xlabel="memory")
        left = 0.0
        for k, (part, size) in enumerate(stack.items()):
            look = {"color": LINES[k % len(LINES)][0], "hatch": HATCHES[k % len(HATCHES)], "edgecolor": "white"}
            panel.barh(name, size, left=left, label=f"{part}, {format_bytes(size)}", **look)
            left += size
        panel.set_xlim(0, 1.02 * max(sum(s.values()) for s in stacks.values()))
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.xaxis.set_major_formatter(BYTES)
        panel.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def timing_ratios(
    labels: Sequence[str], ratios: Sequence[float], low: Sequence[float] | None = None,
    high: Sequence[float] | None = None, *, reference: str = "dense", title: str | None = None,
) -> Figure:  # fmt: skip
    """Times over the time of `reference` in the same run, as horizontal bars; `low` and `high` span the rounds."""
    low, high = low if low is not None else ratios, high if high is not None else ratios
    same_length(labels=labels, ratios=ratios, low=low, high=high)
    fastest = min(range(len(ratios)), key=lambda k: ratios[k])
    alt = f"Bars of time relative to {reference} for {', '.join(labels)}; left of the line at 1 is faster."
    heading = f"{labels[fastest]} takes {ratios[fastest]:.2f} of the time of {reference}"
    figure = canvas(title or heading, alt, size=(6.4, 1.3 + 0.4 * len(labels)))
    panel = axes(figure, xlabel=f"time / time of {reference}")
    middle = numbers(ratios)
    spread = np.maximum([middle - numbers(low), numbers(high) - middle], 0.0)
    panel.barh(labels, ratios, xerr=spread, color=MEASURED, ecolor=INK, capsize=3, height=0.6)
    for y, ratio in enumerate(ratios):
        label(panel, f"{ratio:.2f}", high[y], y)
    panel.axvline(1.0, color=GREY, linestyle="--")
    panel.invert_yaxis()
    panel.margins(x=0.15)
    return figure


def _agreement(ratios: np.ndarray) -> str:
    worst = max(ratios.max(), 1 / ratios.min())
    if worst <= 2:
        return f"Every measured bar is within {'a quarter' if worst <= 1.25 else 'a factor of two'} of its prediction."
    return "At least one measured bar is more than a factor of two away from its prediction."
