"""Pictures of a ring of ranks: whose texts are where at each step, what is sent, what is held, what waits for what.

The chart and the film are drawn from the trace that the ring kept while it ran
(`minilib.distributed.ring_comm.Trace`), never from a formula that could disagree with it. A rank has one colour in the
whole course, and its number beside it. `ring_timeline` is a model and says so in its title.

Drawn in notebook 06.
"""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle

from minilib.teaching.memory import format_bytes
from minilib.teaching.plots.canvas import axes, canvas, label, same_length
from minilib.teaching.plots.palette import BLUE, FONT, GREEN, GREY, INK, MEASURED, ORANGE, PURPLE, SKY, VERMILLION, pale

RANKS = (SKY, ORANGE, GREEN, PURPLE, VERMILLION, BLUE, GREY, "#F0E442")  # of rank 0, 1, 2, ...
SWEEPS = {"sums": "forward", "gradients": "backward", "sigmoid": "both at once"}
KINDS = {"texts": ("", BLUE), "gradients": ("//", ORANGE), "columns": ("..", GREY)}


def ring_chart(trace: Sequence, *, title: str | None = None) -> Figure:
    """Rank by step: whose texts each rank works on, what it sends, and the most that a rank holds of others' blocks.

    `trace` is that of one loss with its backward pass, or without.
    """
    sweeps = _sweeps(trace)
    ranks, columns = 1 + max(entry.rank for entry in trace), [(n, k) for n, steps in enumerate(sweeps) for k in steps]
    heading = f"Each of {ranks} ranks meets every block once per sweep"
    figure = canvas(title or heading, "", size=(8.0, 2.6 + 0.5 * ranks))
    grid = figure.add_gridspec(2, 1, height_ratios=(ranks, 2.4))
    upper, lower = axes(figure, grid[0], ylabel="rank"), axes(figure, grid[1], ylabel="blocks held", xlabel="step")
    for x, (n, k) in enumerate(columns):
        _draw_step(upper, x + n, ranks, sweeps[n][k])  # + n: a gap between the sweeps
    for n, sweep in enumerate(sweeps):
        xs = [x + n for x, (m, _) in enumerate(columns) if m == n]
        _draw_held(lower, xs, [max(visiting_bytes(sweep, k, rank) for rank in range(ranks)) for k in sweep], sweep)
        label(upper, _told(sweep), sum(xs) / len(xs), -0.72, xytext=(0, 0), ha="center")
    places = [x + n for x, (n, _) in enumerate(columns)]
    upper.set(ylim=(ranks + 0.35, -0.95), yticks=range(ranks), xticks=[], xlim=(-0.6, places[-1] + 0.6))
    lower.set(yticks=[], xticks=places, xticklabels=[k for _, k in columns], xlim=(-0.6, places[-1] + 0.6))
    lower.margins(y=0.35)
    upper.spines[:].set_visible(False)
    told = "one sweep" if len(sweeps) == 1 else f"{len(sweeps)} sweeps"
    figure.alt_text = (
        f"Chart of {ranks} ranks by {len(columns)} steps in {told}, each square coloured and numbered by "
        "the rank whose texts are worked on; step by step the numbers move down to the next rank. Below, what is "
        "sent, and bars of the bytes of travelling blocks that a rank holds, with a line at those of all blocks."
    )
    return figure


def ring_film(trace: Sequence, *, title: str | None = None) -> Figure:
    """One frame per step of the first sweep: ranks on a circle, the texts of each, and the transfer that follows."""
    sweep = _sweeps(trace)[0]
    ranks = len(sweep[0]["work"])
    if not 2 <= ranks <= 8:
        raise ValueError(f"trace has {ranks} ranks, but the film shows 2 to 8: run a ring of that size")
    alt = (
        f"Film strip of {len(sweep)} frames with {ranks} ranks on a circle, each holding the texts of one rank. From "
        "frame to frame every text block moves on to the next rank; after the last frame all have met all."
    )
    figure = canvas(title or "Images stay, texts move on by one rank per step", alt, size=(8.0, 6.2 / len(sweep) + 0.7))
    for k, step in sweep.items():
        panel = axes(figure, 1, len(sweep), k + 1, xlabel=f"step {k}")
        places = [(math.sin(2 * math.pi * p / ranks), math.cos(2 * math.pi * p / ranks)) for p in range(ranks)]
        for entry in step["texts"]:
            arrow = {"arrowstyle": "-|>", "mutation_scale": 11, "shrinkA": 13, "shrinkB": 13, "color": INK}
            bend = {"connectionstyle": "arc3,rad=-0.25"}
            panel.add_patch(FancyArrowPatch(places[entry.rank], places[entry.to], **arrow, **bend))
        for entry in step["work"]:
            x, y = places[entry.rank]
            panel.add_patch(Circle((x, y), 0.36, facecolor="white", edgecolor=RANKS[entry.rank], linewidth=3))
            panel.add_patch(Rectangle((x - 0.2, y - 0.2), 0.4, 0.4, facecolor=_pale(RANKS[entry.owner])))
            label(panel, str(entry.owner), x, y, xytext=(0, 0), ha="center")
            label(panel, f"rank {entry.rank}", 1.95 * x, 1.65 * y, xytext=(0, 0), ha="center", fontsize=9)
        panel.set(xlim=(-2.45, 2.45), ylim=(-1.95, 1.95), xticks=[], yticks=[], aspect="equal")
        panel.spines[:].set_visible(False)
    return figure


def ring_bytes(schemes: Mapping[str, Mapping[str, float]], per: float, *, title: str | None = None) -> Figure:
    """Bytes that one rank sends in a step, as bars cut by kind of message, over `per`, the elements of b x d."""
    same_length(schemes=schemes)
    totals = {name: sum(kinds.values()) / per for name, kinds in schemes.items()}
    least, most = min(totals, key=totals.get), max(totals, key=totals.get)
    alt = f"Bars of bytes sent per element for {', '.join(schemes)}, cut into texts and gradients. "
    alt += f"The longest bar is {most}, the shortest {least}."
    heading = f"{least}: {totals[least]:.3g} bytes per element, {most}: {totals[most]:.3g}"
    figure = canvas(title or heading, alt, size=(6.4, 1.6 + 0.45 * len(schemes)))
    panel = axes(figure, xlabel="bytes that a rank sends, per element of b x d")
    for name, kinds in schemes.items():
        left = 0.0
        for kind, size in kinds.items():
            hatch, colour = KINDS.get(kind, ("xx", ORANGE))
            named = kind if kind not in panel.get_legend_handles_labels()[1] else None
            panel.barh(name, size / per, 0.6, left, color=colour, hatch=hatch, edgecolor="white", label=named)
            left += size / per
        label(panel, f"{left:.3g}", left, name)
    panel.invert_yaxis()
    panel.margins(x=0.12)
    figure.legend(fontsize=9, frameon=False, loc="outside lower center", ncols=4)
    return figure


def ring_timeline(work: float, transfer: float, steps: int, *, title: str | None = None) -> Figure:
    """A model, not a measurement: blocks of `work` seconds, with transfers of `transfer` seconds meanwhile or between.

    The upper panel posts a transfer before the work on the block begins, the lower one after it.
    """
    together = (steps - 1) * max(work, transfer) + work
    apart = (steps - 1) * (work + transfer) + work
    waits = (steps - 1) * max(0.0, transfer - work)
    told = "the transfer is hidden" if not waits else f"the arithmetic waits for {waits / together:.0%} of the time"
    alt = (
        f"Model of {steps} steps as bars on two lanes, transfers and work, posted before and after it. Posted before, "
        f"{told}; posted after, every transfer is waited for."
    )
    figure = canvas(title or f"Model: posted before the work, {told}", alt, size=(6.4, 3.4))
    for row, (name, end) in enumerate((("before", together), ("after", apart))):
        panel = axes(figure, 2, 1, row + 1, xlabel="milliseconds (model)" if row else "")
        start = 0.0
        for k in range(steps):
            _bar(panel, 1, start, work, RANKS[-k % steps % len(RANKS)], str(k) if work > 0.03 * apart else "")
            posted = start if name == "before" else start + work
            if k + 1 < steps:
                _bar(panel, 0, posted, transfer, GREY, str(k + 1) if transfer > 0.03 * apart else "")
            start = max(start + work, posted + transfer)
        panel.set(xlim=(0, 1e3 * 1.02 * apart), ylim=(1.5, -0.5))
        panel.set_yticks([0, 1], ["transfer", "work on block"])
        panel.set_title(f"transfer posted {name} the work: {1e3 * end:.3g} ms", fontsize=FONT, color=INK, loc="left")
    return figure


def visiting_bytes(sweep: Mapping[int, Mapping], step: int, rank: int) -> int:
    """Bytes of travelling blocks on `rank` while it works at `step`.

    The texts here and those arriving; the gradient in the making, and those of the step before, leaving and arriving.
    """
    here = {entry.owner: entry.sent for entry in sweep[0]["texts"]}  # every block sets out from its owner once
    owner = next(entry.owner for entry in sweep[step]["work"] if entry.rank == rank)
    arriving = sum(entry.sent for entry in sweep[step]["texts"] if entry.to == rank)
    making = sum(entry.sent for entry in sweep[step]["gradients"] if entry.rank == rank)
    before = sweep[step - 1]["gradients"] if step else []
    return here.get(owner, 0) + arriving + making + sum(e.sent for e in before if rank in (e.rank, e.to))


def _gathered(sweep: Mapping[int, Mapping]) -> int:
    """Bytes of the blocks of all ranks at once, with their gradients where there are any."""
    texts, gradients = (sum(e.sent for e in sweep[k][what]) for k, what in ((0, "texts"), (max(sweep), "gradients")))
    return texts + gradients


def _sweeps(trace: Sequence) -> list[dict[int, dict[str, list]]]:
    """The trace as sweeps, each a dictionary from step to its work, texts and gradients over all ranks."""
    same_length(trace=trace)
    sweeps, before = [], math.inf
    for entry in (entry for entry in trace if entry.step is not None):
        again = entry.step == before == 0 and entry.rank in [e.rank for e in sweeps[-1][0]["work"]]  # one rank alone
        if entry.step < before or again:
            sweeps.append({})
        before = entry.step
        step = sweeps[-1].setdefault(entry.step, {"work": [], "texts": [], "gradients": []})
        step["work" if entry.what.startswith("work on") else entry.what].append(entry)
    if not sweeps:
        raise ValueError("trace tells of no step: run a loss over a ring first and pass its trace")
    return sweeps


def _told(sweep: Mapping[int, Mapping]) -> str:
    what = next(iter(sweep.values()))["work"][0].what.removeprefix("work on ")
    return f"{SWEEPS.get(what, what)}: {what}" if what in ("sums", "gradients") else what


def _draw_step(panel: Axes, x: float, ranks: int, step: Mapping[str, list]) -> None:
    """One column of the chart: whose texts every rank works on, and what rank 0 sends."""
    for entry in step["work"]:
        colour = _pale(RANKS[entry.owner % len(RANKS)])
        panel.add_patch(Rectangle((x - 0.4, entry.rank - 0.4), 0.8, 0.8, facecolor=colour))
        label(panel, f"texts {entry.owner}", x, entry.rank, xytext=(0, 0), ha="center")
    kinds = (("texts", "texts"), ("gradients", "grads"))
    sent = "\n".join(f"{name} {format_bytes(step[kind][0].sent)}" for kind, name in kinds if step[kind])
    label(panel, sent or "nothing", x, ranks - 0.45, xytext=(0, 0), ha="center", va="top", fontsize=9)


def _draw_held(panel: Axes, xs: list[float], sizes: list[int], sweep: Mapping[int, Mapping]) -> None:
    """Bars of the bytes held in one sweep, and the line at what all blocks together would take."""
    panel.bar(xs, sizes, 0.8, color=MEASURED)
    for x, size in zip(xs, sizes):
        label(panel, format_bytes(size), x, size, xytext=(0, 6), ha="center", fontsize=9)
    everything = _gathered(sweep)
    panel.plot([xs[0] - 0.5, xs[-1] + 0.5], [everything] * 2, color=VERMILLION, linestyle="--")
    label(panel, f"gathered: {format_bytes(everything)}", xs[0] - 0.5, everything, xytext=(0, 8))


def _bar(panel: Axes, lane: int, start: float, length: float, colour: str, name: str) -> None:
    panel.barh(lane, 1e3 * length, 0.7, 1e3 * start, color=_pale(colour), edgecolor="white")
    label(panel, name, 1e3 * (start + length / 2), lane, xytext=(0, 0), ha="center", fontsize=9)


def _pale(colour: str) -> tuple[float, ...]:
    return pale(colour, 0.55)
