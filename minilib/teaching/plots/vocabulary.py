"""Pictures of logits over a vocabulary: how few are needed, which visit multiplies what, what one shared prompt saves.

Sizes are drawn to scale and in fp32, layouts from the `Packed` that `minilib.longcontext.pack_answers` returns. Used in
notebooks/10_score_a_long_answer.ipynb.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from minilib.teaching.memory import format_bytes
from minilib.teaching.plots.canvas import axes, box, canvas, label, numbers, same_length
from minilib.teaching.plots.palette import BLUE, COUNT, GREY, INK, LINES, SKY, VERMILLION


def logits_map(
    prompt: int, answers: Sequence[int], vocabulary: int, *, tile: int = 1024, title: str | None = None
) -> Figure:
    """Logits of 1 + M sequences of `prompt` and answer tokens over `vocabulary`, to scale: all, those needed, one tile.

    `answers` are the tokens of each answer, the chosen one first.
    """
    same_length(answers=answers)
    tokens, needed, edge = len(answers) * prompt + sum(answers), sum(answers), min(tile, sum(answers), vocabulary)
    every, few, one = (format_bytes(4 * count) for count in (tokens * vocabulary, needed * vocabulary, edge * edge))
    alt = f"Two grids of logits to scale, tokens down and {vocabulary:,} vocabulary entries across. Left all "
    alt += f"{tokens:,} positions of {len(answers)} sequences, {every}, answers as thin bands. Right the {needed:,} "
    alt += f"answer rows alone, {few}, and in them one tile of {one}."
    heading = f"Of {every} of logits, {few} are needed and {one} are held at a time"
    figure = canvas(title or heading, alt, size=(7.6, 3.9))
    left = axes(figure, 1, 2, 1, xlabel="vocabulary entry", ylabel="token", title=every)
    right = axes(figure, 1, 2, 2, xlabel="vocabulary entry", title=few)
    row, at = 0, 0
    for length in answers:
        box(left, 0, row, vocabulary, prompt, facecolor="white", edgecolor=SKY, hatch="//", linewidth=0.5)
        box(left, 0, row + prompt, vocabulary, length, facecolor=VERMILLION, linewidth=0.5)
        box(right, 0, at, vocabulary, length, facecolor=VERMILLION, edgecolor="white", linewidth=0.5)
        row, at = row + prompt + length, at + length
    box(right, 0, 0, edge, edge, facecolor=INK, zorder=3, linewidth=0.5)
    _say(left, "prompt tokens: not needed", (vocabulary / 2, max(prompt / 2, 0.07 * tokens)))
    _say(left, "answer tokens", (vocabulary / 2, prompt + answers[0] / 2), below=0.1 * tokens)
    told = f"answer rows alone: {needed:,} of {tokens:,}\none tile: {edge:,} x {edge:,}, black"
    _say(right, told, (edge / 2, edge), middle=vocabulary / 2, below=min(needed + 0.1 * tokens, 0.8 * tokens) - edge)
    for panel in (left, right):
        panel.set(xlim=(0, vocabulary), ylim=(tokens, 0))
        panel.xaxis.set_major_formatter(COUNT)
        panel.yaxis.set_major_formatter(COUNT)
        panel.locator_params(axis="x", nbins=4)
    right.tick_params(labelleft=False)
    return figure


def products_by_visit(ways: Mapping[str, tuple[float, float]], *, title: str | None = None) -> Figure:
    """Products of each way to loss and gradients, `{name: (forward, backward)}`, one box for each product."""
    same_length(ways=ways)
    fewest = min(ways, key=lambda name: sum(ways[name]))
    alt = f"Bars of products, cut into forward and backward, for {', '.join(ways)}. "
    alt += f"The shortest is {fewest} with {sum(ways[fewest]):.0f}."
    heading = f"{fewest} takes {sum(ways[fewest]):.0f} products"
    figure = canvas(title or heading, alt, size=(6.8, 1.3 + 0.42 * len(ways)))
    panel = axes(figure, xlabel="products of n x V x d (light, hatched: forward visit; dark: backward)")
    for row, (forward, backward) in enumerate(ways.values()):
        for k in range(round(forward) + round(backward)):
            look = {"color": SKY, "hatch": "//"} if k < round(forward) else {"color": BLUE}
            panel.barh(row, 1, left=k, height=0.6, edgecolor="white", linewidth=2, **look)
        label(panel, f"{forward + backward:.0f}", forward + backward, row)
    panel.set_yticks(range(len(ways)), ways)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set(xlim=(0, 0.5 + max(map(sum, ways.values()))), ylim=(len(ways) - 0.5, -0.5))
    return figure


def packed_positions(packed, *, title: str | None = None) -> Figure:
    """Position id of every token of one pack, over its index; an arrow from each first prediction to its token."""
    segments, ids = numbers(packed.segment_ids).astype(int), numbers(packed.position_ids)
    last = int(np.flatnonzero(segments == 0)[-1])
    parts = ["prompt", "chosen", *(f"rejected {s}" for s in range(1, segments.max()))]
    alt = f"Position id against token index for a prompt of {last + 1} tokens and {segments.max()} answers. The prompt "
    alt += f"climbs to {ids[last]:.0f}; each answer starts again at {ids[last] + 1:.0f}, with an arrow from the "
    alt += "prompt's last token to its first."
    heading = f"{segments.max()} answers, all starting at position {ids[last] + 1:.0f}"
    figure = canvas(title or heading, alt, size=(6.8, 3.4))
    panel = axes(figure, xlabel="index in the packed sequence", ylabel="position id")
    for segment, name in enumerate(parts):
        at = np.flatnonzero(segments == segment)
        colour, marker, _ = (SKY, "o", "") if segment == 0 else LINES[segment % len(LINES)]
        panel.plot(at, ids[at], marker=marker, linestyle="", color=colour, markersize=5)
        label(panel, name, at[-1], ids[at[-1]], xytext=(0, 10), ha="center" if segment else "right")
        if segment:
            style = {"arrowstyle": "->", "color": INK, "connectionstyle": "arc3,rad=0.35"}
            panel.annotate("", (at[0], ids[at[0]]), (last, ids[last]), arrowprops=style)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_yticks([tick for tick in panel.get_yticks() if tick >= 0])  # room below for the arrows
    panel.set_ylim(ids.min() - 0.3 * np.ptp(ids), ids.max() + 0.2 * np.ptp(ids))
    return figure


def sharing_gain(prompts: Sequence[int], gains: Mapping[int, Sequence[float]], *, title: str | None = None) -> Figure:
    """FLOP of 1 + M separate passes over those of one shared prompt, over the prompt's length; a curve for each M."""
    same_length(prompts=prompts, **{f"gains[{m}]": values for m, values in gains.items()})
    most = max(gains)
    alt = f"Curves of FLOP of separate passes over FLOP of a shared prompt, for prompts of {prompts[0]:,} to "
    alt += f"{prompts[-1]:,} tokens and M = {', '.join(map(str, gains))}. All rise towards dashed lines at 1 + M."
    heading = f"With M = {most} and {prompts[-1]:,} prompt tokens, sharing saves a factor of {gains[most][-1]:.1f}"
    figure = canvas(title or heading, alt)
    panel = axes(figure, xlabel="tokens of the prompt", ylabel="FLOP, separate / shared")
    for (m, values), (colour, marker, line) in zip(gains.items(), LINES):
        panel.plot(prompts, values, color=colour, marker=marker, linestyle=line)
        panel.axhline(1 + m, color=GREY, linestyle="--", linewidth=0.8)
        label(panel, f"M = {m}", prompts[-1], values[-1], xytext=(7, -8))
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(COUNT)
    panel.set_ylim(1, 1.12 * (1 + most))
    panel.margins(x=0.12)
    return figure


def _say(panel, text: str, at: tuple[float, float], *, middle: float | None = None, below: float = 0.0) -> None:
    """A framed text on the point `at`, or so far `below` it with an arrow up to it."""
    look = {"boxstyle": "round", "facecolor": "white", "edgecolor": GREY}
    arrow = {"arrowprops": {"arrowstyle": "->", "color": INK}, "va": "top"} if below else {}
    where = (at[0] if middle is None else middle, at[1] + below)
    label(panel, text, *at, xytext=where, textcoords="data", ha="center", bbox=look, **arrow)
