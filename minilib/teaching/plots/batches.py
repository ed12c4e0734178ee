"""Figures of the experiment on batch sizes: one curve for each amount of data, its best batch marked."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from minilib.teaching.plots.canvas import axes, canvas
from minilib.teaching.plots.palette import COUNT, LINES

Spread = tuple[float, float, float]  # mean, low, high


def batch_curves(
    curves: Mapping[int, Mapping[int, Spread]], *, ylabel: str = "recall@1 on unseen pairs", title: str | None = None
) -> Figure:
    """Recall by batch size for each number of pairs, `{pairs: {batch: (mean, low, high)}}`; a ring marks the best."""
    if not curves or not all(curves.values()):
        raise ValueError("curves is empty: pass the recall of at least one batch for every number of pairs.")
    best = {pairs: max(curve, key=lambda batch: curve[batch][0]) for pairs, curve in curves.items()}
    many = f"a curve for each of {len(curves)} amounts" if len(curves) > 1 else "a curve for one amount"
    alt = f"Recall against batch size, {many} of data, bars span the interval. "
    alt += f"The mean is highest at a batch of {', '.join(f'{best[n]:,} with {n:,} pairs' for n in curves)}."
    figure = canvas(title or "Recall against batch size, by amount of data", alt)
    panel = axes(figure, xlabel="batch size (pairs)", ylabel=ylabel)
    for (pairs, curve), (colour, marker, style) in zip(curves.items(), LINES, strict=False):
        batches = sorted(curve)
        means = [curve[batch][0] for batch in batches]
        errors = [[abs(curve[b][0] - curve[b][side]) for b in batches] for side in (1, 2)]
        panel.errorbar(
            batches, means, errors, label=f"{pairs:,} pairs", color=colour, marker=marker, linestyle=style, capsize=2,
            linewidth=1.2,
        )  # fmt: skip
        panel.plot(best[pairs], curve[best[pairs]][0], "o", markersize=13, fillstyle="none", color=colour)
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(COUNT)
    panel.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    panel.set_ylim(0, min(panel.get_ylim()[1], 1.05))  # bars may pass 100 %, recall does not
    panel.legend(fontsize=9, frameon=False)
    return figure
