"""A picture of an experiment with many arms: what each of them gains, with its spread over the seeds."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from minilib.teaching.plots.canvas import axes, canvas
from minilib.teaching.plots.palette import BLUE, GREY, VERMILLION

Spread = tuple[float, float, float]  # mean, smallest, largest over the seeds


def arm_gains(gains: Mapping[str, Spread], *, marked: Sequence[str] = (), title: str | None = None) -> Figure:
    """Change of accuracy against the base, in points: a dot for the mean and a line over the seeds for each arm.

    marked: arms that the others are to be compared with, drawn in another colour and shape.
    """
    if not gains:
        raise ValueError("gains is empty: pass at least one arm with mean, smallest and largest value.")
    best, least = max(gains, key=lambda n: gains[n][0]), min(gains, key=lambda n: gains[n][0])
    alt = f"Change of accuracy beyond the window against the base for {len(gains)} arms, a dot for the mean and a line "
    alt += f"over the seeds. The most gains {best}, the least {least}."
    figure = canvas(title or f"{best} gains the most", alt, size=(6.8, 1.2 + 0.24 * len(gains)))
    panel = axes(figure, xlabel="points of accuracy gained beyond the window", ylabel="")
    for row, (name, (mean, low, high)) in enumerate(gains.items()):
        colour, marker = (VERMILLION, "D") if name in marked else (BLUE, "o")
        panel.plot([100 * low, 100 * high], [row, row], color=colour, linewidth=2)
        panel.plot(100 * mean, row, color=colour, marker=marker, linestyle="none")
    panel.axvline(0, color=GREY, linewidth=1, linestyle=":")
    panel.set_yticks(range(len(gains)), list(gains))
    panel.set_ylim(len(gains) - 0.5, -0.5)
    panel.set_ylabel("arm")
    return figure
