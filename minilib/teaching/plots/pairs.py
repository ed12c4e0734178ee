"""Pictures of preference data: which chunks each answer reads, how chunks are scored, where the answers went.

Drawn from scores, from the plan that `minilib.preferences.chunking` made of them and from the counts of a quality
report. Critical chunks are hatched, irrelevant ones plain, what nobody reads is white. Drawn in
notebook 11.
"""

from collections.abc import Collection, Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from minilib.teaching.plots.canvas import axes, canvas, label, same_length
from minilib.teaching.plots.palette import BLUE, FONT, GREEN, GREY, INK, ORANGE, PURPLE, SHARE, SKY, VERMILLION

CRITICAL = {"facecolor": ORANGE, "hatch": "////", "edgecolor": "white", "linewidth": 0}
IRRELEVANT = {"facecolor": SKY, "edgecolor": "white", "linewidth": 0}
UNREAD = {"facecolor": "white", "edgecolor": GREY, "linewidth": 0.6}
LARGEST_STRIP = 40  # chunks; more of them cannot carry their scores


def context_strips(
    scores: Sequence[float], threshold: float, reads: Mapping[str, Collection[int]],
    says: Mapping[str, str] | None = None, *, title: str | None = None,
) -> Figure:  # fmt: skip
    """The chunks of one document, and below them one strip for each reader in `reads` with the chunks that it is given.

    scores: of all chunks; those above `threshold` are critical and carry their score. says: what a reader answers.
    """
    same_length(scores=scores)
    if len(scores) > LARGEST_STRIP:
        raise ValueError(f"scores has {len(scores)} chunks, more than {LARGEST_STRIP}: cut larger chunks")
    for name, chunks in reads.items():
        if not set(chunks) <= set(range(len(scores))):
            raise ValueError(f"reads[{name!r}] names a chunk that scores does not have: pass numbers of chunks")
    alt = (
        f"A document as a strip of chunks, the critical ones hatched with their scores. Below it strips for "
        f"{', '.join(reads)}: chunks that are read are filled, others are white. Compare how many hatched ones each "
        "holds."
    )
    figure = canvas(title or "What is read decides what is said", alt, size=(8.0, 1.5 + 0.62 * (1 + len(reads))))
    panel = axes(figure, xlabel="chunk of the document")
    rows = {"document": range(len(scores)), **reads}
    for row, (name, chunks) in enumerate(rows.items()):
        for i, score in enumerate(scores):
            look = UNREAD if i not in chunks else CRITICAL if score > threshold else IRRELEVANT
            panel.broken_barh([(i - 0.42, 0.84)], (row - 0.22, 0.44), **look)
            if row == 0 and score > threshold:
                label(panel, f"{score:.3g}", i, -0.36, xytext=(0, 0), ha="center", fontsize=9)
        if name in (says or {}):
            label(panel, f"says: {says[name]}", -0.42, row - 0.37, xytext=(0, 0))
    panel.set_yticks(range(len(rows)), rows, fontsize=FONT)
    panel.set(xlim=(-0.7, len(scores) - 0.3), ylim=(len(rows) - 0.6, -0.62))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.spines[:].set_visible(False)
    panel.tick_params(left=False)
    names = [("critical", CRITICAL), ("irrelevant", IRRELEVANT), ("not read", UNREAD)]
    _legend(figure, [Patch(label=name, **look) for name, look in names])
    return figure


def chunk_scores(
    scores: Mapping[str, Sequence[float]], thresholds: Mapping[str, float], holds: Collection[int], *,
    title: str | None = None,
) -> Figure:  # fmt: skip
    """Bars of the score of every chunk, a panel for each scorer, with its threshold; `holds` are chunks with a fact.

    A chunk that holds a piece of what is asked for is hatched, so a plain bar above the line is a false find.
    """
    same_length(scores=scores)
    same_length(**scores)
    found = {name: {i for i, s in enumerate(values) if s > thresholds[name]} for name, values in scores.items()}
    told = ", ".join(f"{name} {len(found[name] & set(holds))} of {len(holds)}" for name in scores)
    alt = (
        f"Bars of the score of each chunk by {', '.join(scores)}, with thresholds as dashed lines. Chunks that hold a "
        "piece of what is asked for are hatched, all others plain: see which bars rise above their line."
    )
    figure = canvas(title or f"Chunks with a fact that are found: {told}", alt, size=(7.0, 1.0 + 1.3 * len(scores)))
    for row, (name, values) in enumerate(scores.items()):
        panel = axes(figure, len(scores), 1, row + 1, ylabel=name)
        for i, score in enumerate(values):
            panel.bar(i, score, 0.84, **(CRITICAL if i in holds else IRRELEVANT))
        panel.axhline(thresholds[name], color=INK, linestyle="--", linewidth=1)
        label(panel, "threshold", len(values) - 0.3, thresholds[name])  # beside the bars, which may be as high
        panel.set(xlim=(-0.7, len(values) - 0.3))
        panel.margins(y=0.15)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel("chunk of the document", fontsize=FONT, color=INK)
    return figure


def answers_kept(counts: Mapping[str, Mapping[str, int]], *, title: str | None = None) -> Figure:
    """One bar of all rejected answers per name in `counts`, cut into shares: first "kept", then the reasons to drop."""
    same_length(counts=counts)
    totals = {name: sum(parts.values()) for name, parts in counts.items()}
    if not all(totals.values()):
        raise ValueError("counts has a name without any answer: leave it out")
    shares = {name: parts.get("kept", 0) / totals[name] for name, parts in counts.items()}
    most = max(shares, key=shares.get)
    alt = (
        f"Bars of the rejected answers for {', '.join(counts)}, each cut into the share that is kept and the shares "
        "dropped for each reason. A bar with a short first part offers little contrast."
    )
    heading = f"Kept most often: {most}, {shares[most]:.0%} of the answers"
    figure = canvas(title or heading, alt, size=(7.4, 1.7 + 0.45 * len(counts)))
    panel = axes(figure, xlabel="share of the rejected answers")
    reasons = ["kept", *dict.fromkeys(reason for parts in counts.values() for reason in parts if reason != "kept")]
    looks = _looks(reasons)
    for name, parts in counts.items():
        left = 0.0
        for reason in reasons:
            share = parts.get(reason, 0) / totals[name]
            panel.barh(name, share, 0.6, left, **looks[reason])
            left += share
        label(panel, f"{totals[name]:,}", 1.0, name)
    _legend(figure, [Patch(label=reason, **looks[reason]) for reason in reasons], columns=2)
    panel.xaxis.set_major_formatter(SHARE)
    panel.set(xlim=(0, 1.08), xticks=[0, 0.25, 0.5, 0.75, 1])
    panel.invert_yaxis()
    return figure


def _looks(reasons: Sequence[str]) -> dict[str, dict]:
    """Colour and hatch of each part of a bar: what is kept is plain green, what is dropped is hatched."""
    colours = [GREEN, SKY, ORANGE, GREY, PURPLE, BLUE, VERMILLION]
    hatches = ["", "..", "////", "xx", "\\\\\\\\", "++", "--"]
    looks = [{"facecolor": c, "hatch": h, "edgecolor": "white", "linewidth": 0} for c, h in zip(colours, hatches)]
    return {reason: looks[k % len(looks)] for k, reason in enumerate(reasons)}


def _legend(figure: Figure, patches: list[Patch], columns: int = 3) -> None:
    figure.legend(handles=patches, fontsize=9, frameon=False, loc="outside lower center", ncols=columns)
