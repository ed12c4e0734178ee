"""Pictures of what a cluster pays: memory against batch size next to a paper's cells, and a step cut into its parts.

Drawn in notebook 14.
"""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from minilib.teaching.plots.canvas import axes, canvas, label, same_length
from minilib.teaching.plots.costs import HATCHES
from minilib.teaching.plots.palette import BYTES, COUNT, INK, LINES


def memory_by_batch(
    lines: Mapping[str, Sequence[tuple[int, float]]],
    cells: Mapping[str, Sequence[tuple[int, float]]],
    limit_bytes: float,
    *,
    title: str,
) -> Figure:
    """Predicted lines, and the cells of a table as filled marks on them: `{"OpenCLIP, 8 GPUs": [(batch, bytes)]}`."""
    same_length(lines=lines)
    alt = f"Log-log lines of predicted memory against batch size for {'; '.join(lines)}, with the cells of the paper "
    alt += "as filled marks on the lines, and the memory of a GPU as a horizontal line."
    figure = canvas(title, alt, size=(6.8, 4.2))
    panel = axes(figure, xlabel="batch size (pairs)", ylabel="memory of the loss on one GPU")
    for (name, points), (colour, marker, style) in zip(lines.items(), LINES):
        panel.loglog(*zip(*points), linestyle=style, color=colour, label=name)
        if found := cells.get(name):
            panel.loglog(*zip(*found), marker=marker, linestyle="", color=colour)
        label(panel, name, *points[-1])
    panel.axhline(limit_bytes, color=INK, linewidth=1.5)
    right = {"xytext": (0, 7), "ha": "right"}
    label(panel, "memory of a GPU", 0.99, limit_bytes, xycoords=("axes fraction", "data"), **right)
    label(panel, "lines: predicted, marks: the paper", 0.99, 0.04, xycoords="axes fraction", **right)
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(COUNT)
    panel.yaxis.set_major_formatter(BYTES)
    panel.margins(x=0.25)
    return figure


def step_costs(
    memory: Mapping[str, Mapping[str, float]],
    seconds: Mapping[str, Mapping[str, float]],
    limit_bytes: float,
    *,
    title: str,
) -> Figure:
    """Two panels of stacked bars, one bar per method: bytes of a GPU by part, with its limit, and seconds by part."""
    same_length(memory=memory, seconds=seconds)
    over = [name for name, parts in memory.items() if sum(parts.values()) > limit_bytes]
    verdict = f"Too large for a GPU: {', '.join(over)}." if over else "All of them fit."
    alt = f"Two panels of stacked bars for {', '.join(memory)}: memory of one GPU by part, with a line at what it has, "
    figure = canvas(title, f"{alt}and seconds of a step by part. {verdict}", size=(6.8, 4.6))
    for row, (stacks, name) in enumerate(((memory, "memory of one GPU"), (seconds, "seconds of a step"))):
        panel = axes(figure, 2, 1, row + 1, xlabel=f"{name} (model)")
        kinds = list(dict.fromkeys(part for parts in stacks.values() for part in parts))
        longest = max(sum(parts.values()) for parts in stacks.values())
        wide = longest if row else min(longest, 1.3 * limit_bytes)  # a bar that is longer is cut off there
        for method, parts in stacks.items():
            left = 0.0
            for part, size in parts.items():
                k, drawn = kinds.index(part), max(0.0, min(size, wide - left))
                named = part if part not in panel.get_legend_handles_labels()[1] else None
                look = {"color": LINES[k % len(LINES)][0], "hatch": HATCHES[k % len(HATCHES)], "edgecolor": "white"}
                panel.barh(method, drawn, 0.6, left, label=named, **look)
                left += size
            told = f"{left:,.3g} s" if row else ("... " if left > wide else "") + BYTES(left)
            label(panel, told, min(left, wide), method)
        panel.set_xlim(0, 1.3 * wide if row else 1.3 * max(wide, limit_bytes))
        panel.invert_yaxis()
        if row == 0:
            panel.axvline(limit_bytes, color=INK, linewidth=1.5)
            panel.xaxis.set_major_formatter(BYTES)
        panel.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
