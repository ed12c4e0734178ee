"""Pictures of preference losses: log-probabilities while training, loss against margin, who is pushed, Jensen's gap.

The numbers come from the library's losses and from autograd; nothing is computed here but what a title needs. Drawn in
notebook 09.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from minilib.teaching.plots.canvas import axes, canvas, label, numbers, same_length
from minilib.teaching.plots.palette import BLUE, GREY, INK, LINES, VERMILLION


def answer_curves(runs: Mapping[str, Mapping[str, Sequence[float]]], *, title: str | None = None) -> Figure:
    """A panel for each run, a curve for each answer: its mean token log-probability at every training step.

    `runs` is `{run: {answer: values}}`, the same answers in all runs, the chosen one first.
    """
    same_length(runs=runs)
    names = list(next(iter(runs.values())))
    same_length(**{f"answers of {run}": [*curves] for run, curves in runs.items()})
    same_length(**{f"{run}, {name}": values for run, curves in runs.items() for name, values in curves.items()})
    moves = {run: "rises" if curves[names[0]][-1] > curves[names[0]][0] else "falls" for run, curves in runs.items()}
    told = ", ".join(f"{move} under {run}" for run, move in moves.items())
    alt = f"Curves of the mean log-probability of {', '.join(names)} while training, a panel each for "
    alt += f"{', '.join(runs)}. The {names[0]} answer {told}."
    figure = canvas(title or f"The {names[0]} answer {told}", alt, size=(max(6.4, 2.7 * len(runs)), 3.4))
    first = None
    for k, (run, curves) in enumerate(runs.items()):
        ylabel = "" if k else "mean log-probability"
        panel = axes(figure, 1, len(runs), k + 1, xlabel="step", ylabel=ylabel, title=run, sharey=first)
        first = first or panel
        for (name, values), (colour, marker, style) in zip(curves.items(), LINES, strict=False):
            every = max(1, (len(values) - 1) // 5)
            panel.plot(numbers(values), color=colour, marker=marker, linestyle=style, markevery=every, label=name)
    figure.legend(*first.get_legend_handles_labels(), fontsize=9, frameon=False, loc="outside lower center", ncols=4)
    return figure


def loss_vs_margin(
    margins: Sequence[float],
    losses: Mapping[str, Sequence[float]],
    pushes: Mapping[str, Sequence[float]],
    targets: Mapping[str, float],
    *,
    title: str | None = None,
) -> Figure:
    """Loss and its slope against the margin, chosen minus rejected mean log-probability, for several settings.

    `pushes` are the slopes without their sign; a line at `targets` marks where each setting wants the margin to be.
    """
    same_length(losses=losses, pushes=pushes, targets=targets)
    same_length(margins=margins, **losses)
    same_length(margins=margins, **{f"push of {name}": values for name, values in pushes.items()})
    steepest = max(pushes, key=lambda name: max(pushes[name]))
    alt = f"Two panels against the margin from {margins[0]:g} to {margins[-1]:g}, loss and push, "
    alt += f"for {', '.join(losses)}, with a line at each target margin. All fall with the margin; "
    alt += f"{steepest} is the steepest."
    figure = canvas(title or f"{steepest.capitalize()} pushes hardest", alt, size=(8.0, 3.6))
    xlabel = "margin: chosen minus rejected (nats per token)"
    for place, (ylabel, curves) in enumerate((("loss", losses), ("push (slope of the loss)", pushes))):
        panel = axes(figure, 1, 2, place + 1, xlabel=xlabel, ylabel=ylabel)
        for (name, values), (colour, marker, style) in zip(curves.items(), LINES, strict=False):
            look = {"color": colour, "linestyle": style, "marker": marker, "markersize": 5, "label": name}
            panel.plot(margins, numbers(values), markevery=max(1, len(margins) // 6), **look)
            panel.axvline(targets[name], color=colour, linestyle=":", linewidth=1.2)
        panel.locator_params(axis="x", nbins=5)
    figure.legend(*panel.get_legend_handles_labels(), fontsize=9, frameon=False, loc="outside lower center", ncols=4)
    return figure


def push_bars(pushes: Mapping[str, Mapping[str, float]], *, xlabel: str = "push", title: str | None = None) -> Figure:
    """A panel for each loss, a bar for each item: how hard a step pushes its log-probability, up (+) or down (-)."""
    same_length(pushes=pushes)
    items = list(next(iter(pushes.values())))
    for name, bars in pushes.items():
        if list(bars) != items or not items:
            raise ValueError(f"pushes of {name!r} are for {list(bars)} and those before for {items}: give equal items")
    first, values = next(iter(pushes)), [value for bars in pushes.values() for value in bars.values()]
    low, high = min(0.0, *values), max(0.0, *values)  # one scale for all panels
    alt = f"Bars of push on {', '.join(items)}, a panel each for {', '.join(pushes)}. "
    alt += "Solid bars push up, hatched ones push down; compare which items each loss pushes most."
    size = (max(6.4, 2.6 * len(pushes)), 1.5 + 0.32 * len(items))
    figure = canvas(title or f"{first} and the others push different items most", alt, size=size)
    for k, (name, bars) in enumerate(pushes.items()):
        panel = axes(figure, 1, len(pushes), k + 1, xlabel=xlabel, title=name)
        for row, value in enumerate(bars.values()):
            up = value >= 0
            look = {"color": BLUE} if up else {"color": VERMILLION, "hatch": "//", "edgecolor": "white"}
            panel.barh(row, value, 0.7, **look)
            told = f"{value:+.2f}" if abs(value) >= 0.005 else "0"
            label(panel, told, value, row, xytext=(4 if up else -4, 0), ha="left" if up else "right")
        panel.axvline(0, color=INK, linewidth=0.8)
        panel.set_yticks(range(len(items)), items if k == 0 else [""] * len(items))
        panel.invert_yaxis()
        panel.set_xlim(low - 0.3 * (high - low) * (low < 0), high + 0.3 * (high - low) * (high > 0))
    return figure


def mean_inside(
    margins: Sequence[float], losses: Sequence[float], pairs: Mapping[str, tuple[float, float]], *,
    title: str | None = None,
) -> Figure:  # fmt: skip
    """The loss as a curve over the margin, the pairs as points on it, and what averaging before or after it gives.

    `pairs` is `{name: (margin, loss)}`. The upper mark is the mean of the pairs' losses; the lower one lies on the
    curve at the mean of their margins, read off by linear interpolation.
    """
    same_length(margins=margins, losses=losses)
    same_length(pairs=pairs)
    x, after = numbers(list(pairs.values())).mean(0)
    inside = float(np.interp(x, numbers(margins), numbers(losses)))
    alt = f"The loss falls along the margin. Points {', '.join(pairs)} lie on it. Above the curve the mean of their "
    alt += "losses, on the curve the loss of their mean: averaging inside is never above averaging outside."
    figure = canvas(title or "Averaging inside the loss never costs more than averaging outside", alt)
    panel = axes(figure, xlabel="margin (nats per token)", ylabel="loss")
    panel.plot(margins, numbers(losses), color=GREY)
    panel.plot(*zip(*pairs.values()), color=VERMILLION, linestyle="--", marker="s")
    for name, (at, loss) in pairs.items():
        label(panel, name, at, loss, xytext=(8, 6))
    panel.plot([x, x], [inside, after], color=INK, linestyle=":", linewidth=1)
    panel.plot([x], [after], color=VERMILLION, marker="D", markersize=8)
    panel.plot([x], [inside], color=BLUE, marker="o", markersize=9)
    label(panel, f"mean of the pairs' losses: {after:.2f}", x, after, xytext=(10, 6))
    label(panel, f"loss of the mean: {inside:.2f}", x, inside, xytext=(-10, -8), ha="right", va="top")
    panel.margins(x=0.12, y=0.15)
    return figure
