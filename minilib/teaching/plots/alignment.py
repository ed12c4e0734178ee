"""Pictures of an alignment: needle maps before and after, margins while training, accuracy by length over seeds.

    margin = mean_token log pi(chosen | x) - mean_j mean_token log pi(rejected_j | x)        nats per token

Maps that stand side by side share one scale of colour, so that equal colours mean equal shares, and in each the cells
whose distance the training window holds are outlined. Findings are read off the numbers: "more" means that the share
of right answers is at least `CLEAR` above that of the first map or curve.

Drawn in notebook 13 and by the tour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from minilib.teaching.plots.canvas import axes, canvas, mark, numbers, same_length
from minilib.teaching.plots.longcontext import draw_map, in_reach
from minilib.teaching.plots.palette import COUNT, GREY, LINES, SHARE

if TYPE_CHECKING:
    from minilib.evals.longcontext import NeedleMap

CLEAR = 0.05  # a smaller difference of shares is not called one


def needle_maps(maps: Mapping[str, NeedleMap], window: int, *, question: int = 10, title: str | None = None) -> Figure:
    """Needle maps of some models, of the same depths and lengths, in one scale; the first is compared with the rest."""
    same_length(maps=maps)
    depths, lengths = next(iter(maps.values()))[:2]
    for name, found in maps.items():
        if (found.depths, found.lengths) != (depths, lengths):
            raise ValueError(f"map {name!r} has other depths or lengths than the first: measure all maps at the same")
    inside = in_reach(depths, lengths, window, question=question)
    far = {name: _mean(numbers(found.accuracy), ~inside) for name, found in maps.items()}
    alt = f"Maps of right answers at {len(depths)} depths and {len(lengths)} lengths from {lengths[0]:,} to "
    alt += f"{lengths[-1]:,} tokens, in one scale of colour, for {', '.join(maps)}. Beyond the trained distance, right "
    alt += f"of the line: {_compared(far)}."
    told = ", ".join(f"{name} {share:.0%}" for name, share in far.items())
    columns = len(maps) if len(maps) <= 3 else 2
    rows = -(-len(maps) // columns)
    figure = canvas(title or f"Right beyond {window} positions: {told}", alt, size=(7.6, 0.9 + 2.5 * rows))
    panels = []
    for place, (name, found) in enumerate(maps.items()):
        ylabel = "" if place % columns else "depth of the fact"
        panel = axes(figure, rows, columns, place + 1, xlabel="tokens of the text", ylabel=ylabel, title=name)
        mesh = draw_map(panel, depths, lengths, numbers(found.accuracy), inside, sign="")
        if not ylabel:
            panel.set_yticklabels([""] * len(depths))
        panels.append(panel)
    bar = figure.colorbar(mesh, ax=panels, label="right answers (%)", fraction=0.04)
    bar.set_ticks(np.linspace(0, 1, 5), labels=["0", "25", "50", "75", "100"], fontsize=9)
    bar.ax.set_ylim(0, 1)
    return figure


def margin_curves(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, title: str | None = None) -> Figure:
    """The margin of held-out pairs while training, `{name: (steps, margins)}`; above nought the chosen answer leads."""
    _few(curves)
    for name, (steps, margins) in curves.items():
        same_length(**{f"steps of {name}": steps, f"margins of {name}": margins})
    moves = {name: _move(numbers(margins)) for name, (_, margins) in curves.items()}
    first = max(curves, key=lambda name: float(curves[name][1][-1]))
    alt = "Curves of the margin between chosen and rejected answers against the training step for "
    alt += f"{', '.join(curves)}. The margin {', '.join(f'{move} under {name}' for name, move in moves.items())}."
    still = set(moves.values()) == {"hardly moves"}
    figure = canvas(title or ("The margin hardly moves" if still else f"Under {first} the margin ends widest"), alt)
    panel = axes(figure, xlabel="training step", ylabel="margin (nats per token)")
    for (name, (steps, margins)), (colour, marker, line) in zip(curves.items(), LINES):
        every = max(1, len(steps) // 8)
        panel.plot(steps, numbers(margins), color=colour, marker=marker, linestyle=line, markevery=every, label=name)
    panel.axhline(0, color=GREY, linewidth=1, linestyle=":")
    panel.legend(fontsize=9, frameon=False)
    panel.xaxis.get_major_locator().set_params(integer=True)
    return figure


def accuracy_by_length(
    lengths: Sequence[int], accuracy: Mapping[str, Sequence[Sequence[float]]], window: int, *, title: str | None = None
) -> Figure:
    """Right answers against the length of the text: `{name: shares (seeds, lengths)}`, means, with bands over seeds."""
    _few(accuracy)
    shares = {name: np.atleast_2d(numbers(runs)) for name, runs in accuracy.items()}
    for name, runs in shares.items():
        if runs.ndim != 2 or runs.shape[1] != len(lengths):
            raise ValueError(f"accuracy of {name!r} has shape {runs.shape} for {len(lengths)} lengths: one row a seed")
    beyond = numbers(lengths) > window
    far = {name: _mean(runs.mean(0), beyond) for name, runs in shares.items()}
    seeds = max(len(runs) for runs in shares.values())
    alt = f"Curves of right answers against texts of {lengths[0]:,} to {lengths[-1]:,} tokens for {', '.join(shares)}; "
    side = "Beyond" if beyond.any() else "Within"
    alt += f"{'bands span the seeds' if seeds > 1 else 'one seed'}. {side} the window of {window:,}: {_compared(far)}."
    best = max(far, key=far.get)
    drawn = f"mean of {seeds} seeds" if seeds > 1 else "one seed"
    figure = canvas(title or f"Beyond the window {best} is right most often ({drawn})", alt)
    panel = axes(figure, xlabel="tokens of the text", ylabel="right answers")
    for (name, runs), (colour, marker, line) in zip(shares.items(), LINES):
        panel.plot(lengths, runs.mean(0), color=colour, marker=marker, linestyle=line, label=name)
        panel.fill_between(lengths, runs.min(0), runs.max(0), color=colour, alpha=0.15, linewidth=0)
    mark(panel, window, "window", 0.04)
    panel.legend(fontsize=9, frameon=False)
    panel.xaxis.set_major_formatter(COUNT)
    panel.yaxis.set_major_formatter(SHARE)
    panel.set_ylim(0, 1.05)
    return figure


def _mean(shares: np.ndarray, where: np.ndarray) -> float:
    """The mean of the chosen shares, of all when none is chosen."""
    return float(shares[where].mean() if where.any() else shares.mean())


def _compared(far: Mapping[str, float]) -> str:
    """How the others compare with the first, in words that a second run would find again."""
    (first, least), *others = far.items()
    if not others:
        return f"{first} is right {'in most' if least > 0.5 else 'in at most half of the'} cases"
    return "; ".join(f"{name} is right {_degree(share - least)} {first}" for name, share in others)


def _degree(gain: float) -> str:
    return "more often than" if gain >= CLEAR else "less often than" if gain <= -CLEAR else "about as often as"


def _move(margins: np.ndarray) -> str:
    change = margins[-1] - margins[0]
    return "rises" if change > 0.1 else "falls" if change < -0.1 else "hardly moves"


def _few(curves: Mapping) -> None:
    same_length(curves=curves)
    if len(curves) > len(LINES):
        raise ValueError(f"{len(curves)} curves were given: pass at most {len(LINES)}, so that each has its own look")
