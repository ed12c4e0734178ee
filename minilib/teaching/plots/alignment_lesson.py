"""Pictures of one alignment run from its own log: any logged number over the steps, and both sides of the margin.

    margin = chosen - mean of rejected        both mean log-probabilities, so a margin grows when either side moves

Curves are given with their steps, because a trainer logs every so many of them. Drawn in notebook 13.
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minilib.teaching.plots.canvas import axes, canvas, numbers, same_length
from minilib.teaching.plots.palette import LINES

Curve = tuple[Sequence[float], Sequence[float]]  # steps, values
CLEAR = 0.05  # nats per token; a smaller move is not called one


def logged_curves(runs: Mapping[str, Curve], ylabel: str, *, title: str | None = None) -> Figure:
    """One logged number over the training steps, `{run: (steps, values)}`."""
    same_length(runs=runs)
    if len(runs) > len(LINES):
        raise ValueError(f"{len(runs)} runs were given: pass at most {len(LINES)}, so that each has its own look")
    for run, (steps, values) in runs.items():
        same_length(**{f"steps of {run}": steps, f"values of {run}": values})
    last = max(runs, key=lambda run: float(runs[run][1][-1]))
    alt = f"Curves of {ylabel} over the training steps for {', '.join(runs)}. Compare where each of them begins and "
    alt += "where it ends."
    figure = canvas(title or f"{ylabel} ends highest under {last}", alt)
    panel = axes(figure, xlabel="training step", ylabel=ylabel)
    for (run, curve), look in zip(runs.items(), LINES):
        _draw(panel, run, curve, look)
    panel.legend(fontsize=9, frameon=False)
    return figure


def margin_sides(runs: Mapping[str, Mapping[str, Curve]], *, title: str | None = None) -> Figure:
    """A panel for each run with both sides of its margin: `{run: {"chosen": (steps, values), "rejected": ...}}`."""
    same_length(runs=runs)
    names = list(next(iter(runs.values())))
    for run, sides in runs.items():
        if list(sides) != names or not 1 <= len(names) <= 3:
            raise ValueError(f"run {run!r} has the curves {list(sides)}: give {names} to every run, three at most")
        for name, (steps, values) in sides.items():
            same_length(**{f"steps of {run}, {name}": steps, f"values of {run}, {name}": values})
    moves = {run: {name: _move(curve[1]) for name, curve in sides.items()} for run, sides in runs.items()}
    told = "; ".join(f"{run}: {', '.join(map(' '.join, sides.items()))}" for run, sides in moves.items())
    alt = f"Curves of the mean log-probability of {' and '.join(names)} answers over the training steps, a panel for "
    alt += f"each run. {told}. The gap between them is the margin."
    figure = canvas(title or told, alt, size=(max(6.4, 2.9 * len(runs)), 3.4))
    first = None
    for k, (run, sides) in enumerate(runs.items()):
        ylabel = "" if k else "nats per token"
        panel = axes(figure, 1, len(runs), k + 1, xlabel="training step", ylabel=ylabel, title=run, sharey=first)
        first = first or panel
        for (name, curve), look in zip(sides.items(), LINES):
            _draw(panel, name, curve, look)
    handles = first.get_legend_handles_labels()
    figure.legend(*handles, fontsize=9, frameon=False, loc="outside lower center", ncols=len(names))
    return figure


def _draw(panel: Axes, name: str, curve: Curve, look: tuple[str, str, str]) -> None:
    steps, values = map(numbers, curve)
    colour, marker, line = look
    every = max(1, len(steps) // 6)
    panel.plot(steps, values, color=colour, marker=marker, linestyle=line, markevery=every, label=name)
    panel.xaxis.get_major_locator().set_params(integer=True)


def _move(values: Sequence[float]) -> str:
    change = float(values[-1]) - float(values[0])
    return "rises" if change > CLEAR else "falls" if change < -CLEAR else "hardly moves"
