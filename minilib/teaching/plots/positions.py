"""Pictures of synthesised positions: strips of chunks, what they cover, the distances seen, who sees whom in a pack.

Drawn from the position ids, counts and masks that `minilib.longcontext` returns, never from a drawing of them. Taught
in notebooks/12_stretch_positions_without_long_inputs.ipynb.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from minilib.teaching.plots.canvas import axes, canvas, label, numbers, same_length
from minilib.teaching.plots.palette import COUNT, FONT, GREY, INK, LINES, SHARE, SKY

LARGEST_MASK = 64  # tokens; a larger grid cannot be read


def position_strips(
    strips: Mapping[str, Sequence[int]], lengths: Sequence[int], target: int, *, title: str | None = None
) -> Figure:
    """One strip of `target` positions per name in `strips`; coloured pieces are runs of consecutive positions.

    `lengths` are the tokens of each chunk, the same in all strips: neighbouring chunks differ in colour and hatch.
    """
    same_length(strips=strips)
    total, chunks = sum(lengths), np.repeat(np.arange(len(lengths)), lengths)
    for name, positions in strips.items():
        if len(positions) != total:
            raise ValueError(f"strip {name!r} has {len(positions)} positions and the chunks {total} tokens: pass both")
    farthest = max(strips, key=lambda name: int(max(strips[name])))
    alt = f"Strips of {target:,} positions for {', '.join(strips)}, with the same {total:,} tokens in "
    alt += f"{len(lengths)} chunks coloured on each. {farthest.capitalize()} reaches farthest; white is gaps."
    heading = title or f"{total:,} tokens reach position {int(max(strips[farthest])):,}"
    figure = canvas(heading, alt, size=(7.0, 1.2 + 0.55 * len(strips)))
    panel = axes(figure, xlabel="position")
    for row, positions in enumerate(strips.values()):
        panel.broken_barh([(0, target)], (row - 0.3, 0.6), facecolor="white", edgecolor=GREY, linewidth=0.6)
        for c in range(len(lengths)):
            runs = _runs(numbers(positions)[chunks == c])
            colour, hatch = LINES[c % len(LINES)][0], "" if c % 2 or len(runs) > 8 else "////"
            look = {"facecolor": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
            # Not snapped to whole pixels: runs narrower than one shall tint it, not vanish.
            panel.broken_barh(runs, (row - 0.3, 0.6), snap=False, **look)
    panel.set_yticks(range(len(strips)), strips)
    panel.set(xlim=(-0.01 * target, 1.01 * target), ylim=(len(strips) - 0.5, -0.5))
    panel.xaxis.set_major_formatter(COUNT)
    return figure


def coverage_curves(
    samples: Sequence[int], shares: Mapping[str, Sequence[float]], *, title: str | None = None
) -> Figure:
    """Share of the target's positions (or distances) seen after so many samples, a curve for each way to draw them."""
    same_length(shares=shares)
    best = max(shares, key=lambda name: shares[name][-1])
    alt = f"Curves of the share seen after {samples[0]:,} to {samples[-1]:,} samples for {', '.join(shares)}. "
    alt += f"The one that ends highest is {best}."
    figure = canvas(title or f"After {samples[-1]:,} samples {best} has seen {shares[best][-1]:.0%}", alt)
    panel = axes(figure, xlabel="samples", ylabel="share of the target seen")
    for (name, values), (colour, marker, line) in zip(shares.items(), LINES):
        same_length(samples=samples, **{name: values})
        panel.plot(samples, values, color=colour, marker=marker, linestyle=line, label=name)
    panel.legend(fontsize=9, frameon=False, loc="lower right")  # the curves end too close for labels of their own
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(COUNT)
    panel.yaxis.set_major_formatter(SHARE)
    panel.set_ylim(0, 1.05)
    return figure


def distances_seen(counts: Mapping[str, Sequence[int]], *, bins: int = 32, title: str | None = None) -> Figure:
    """How often tokens look back over each distance, one outline per name; counts as `count_distances` returns them."""
    same_length(counts=counts)
    target = len(next(iter(counts.values())))
    far = {name: np.flatnonzero(numbers(values)).max(initial=0) for name, values in counts.items()}
    alt = f"Outlines of how often each distance up to {target:,} is seen, for {', '.join(counts)}. "
    alt += f"The one that looks back farthest is {max(far, key=far.get)}."
    told = ", ".join(f"{name} {distance:,}" for name, distance in far.items())
    figure = canvas(title or f"Farthest distance seen: {told}", alt)
    panel = axes(figure, xlabel="distance (positions)", ylabel="share of all looks back")
    edges = np.linspace(0, target, bins + 1)
    for (name, values), (colour, _, line) in zip(counts.items(), LINES):
        height, _ = np.histogram(np.arange(target), edges, weights=numbers(values) / max(1, numbers(values).sum()))
        panel.stairs(height, edges, color=colour, linestyle=line, linewidth=1.6)
        peak = int(height.argmax())
        label(panel, name, edges[peak + 1], height[peak])
    panel.xaxis.set_major_formatter(COUNT)
    panel.yaxis.set_major_formatter(SHARE)
    return figure


def who_sees_whom(mask, segment_ids: Sequence[int], *, title: str | None = None) -> Figure:
    """The attention mask of one pack as a grid: asking tokens down, seen tokens across, prompt and answers named."""
    seen, segments = numbers(mask).squeeze(), numbers(segment_ids).astype(int)
    if seen.shape != (len(segments), len(segments)) or len(segments) > LARGEST_MASK:
        told = f"mask has shape {seen.shape} for {len(segments)} tokens"
        raise ValueError(f"{told}: pass the mask of one pack, {LARGEST_MASK} at most")
    parts = ["prompt", "chosen", *(f"rejected {s}" for s in range(1, segments.max()))]
    alt = f"A {len(segments)} by {len(segments)} grid, filled where the token of the row sees the token of the column: "
    alt += f"{seen.mean():.0%} of it. Rows of an answer are filled under the prompt and under their own past only."
    figure = canvas(title or "Answers read the prompt and themselves, never each other", alt, size=(5.2, 4.8))
    panel = axes(figure, xlabel="seen token", ylabel="asking token")
    colours = ListedColormap(["white", SKY, *(LINES[s % len(LINES)][0] for s in range(1, len(parts)))])
    panel.pcolormesh(seen * (segments + 1), cmap=colours, vmin=0, vmax=len(parts), edgecolors=GREY, linewidth=0.3)
    middles = [np.flatnonzero(segments == s).mean() + 0.5 for s in range(len(parts))]
    panel.set_yticks(middles, parts)
    panel.set_xticks(middles, parts, rotation=45, ha="right")
    for border in np.flatnonzero(np.diff(segments)) + 1:
        panel.axhline(border, color=INK, linewidth=1)
        panel.axvline(border, color=INK, linewidth=1)
    panel.set(aspect="equal", ylim=(len(segments), 0))
    panel.tick_params(labelsize=FONT)
    return figure


def _runs(positions: np.ndarray) -> list[tuple[float, float]]:
    """(start, width) of each stretch of consecutive positions."""
    pieces = np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1)
    return [(piece[0], len(piece)) for piece in pieces]
