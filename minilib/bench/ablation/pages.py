"""The experiment as tables and figures: for the terminal, and as a page for the book.

Every sentence that judges is chosen by the figures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from minilib.bench import report
from minilib.evals.longcontext import NeedleMap
from minilib.models.tiny_lm import WINDOW
from minilib.teaching import plots
from minilib.teaching.memory import format_bytes

WON, KEPT, PAID = "what is won beyond the window", "what is kept in the window", "what it costs"
MAIN = ("base", "SFT", "SFT, stretched positions", "LOGO")  # the arms of the curves


def write(output: Path, document: dict[str, Any]) -> None:
    """alignment.md and its figures, in `output`."""
    (output / "alignment.md").write_text(page(document))
    for name, figure in figures(document).items():
        (output / f"{name}.png").write_bytes(plots.to_png(figure))


def page(document: dict[str, Any]) -> str:
    """The tables and bars as Markdown."""
    sections = [report.machine_section(document), settings_sentence(document)]
    for words, build in ((WON, won), (KEPT, kept), (PAID, paid)):
        sections.append(f"**{words[0].upper()}{words[1:]}**\n\n{report.markdown(*build(document))}")
    sections.append(f"**Bars**\n\n{report.markdown(*bars(document))}")
    return "\n\n".join(sections) + "\n"


def plain(document: dict[str, Any]) -> str:
    """The same tables for a terminal."""
    return "\n\n".join(report.plain(*build(document)) for build in (won, kept, paid, bars))


def settings_sentence(document: dict[str, Any]) -> str:
    """What every arm had in common."""
    s, seeds = document["settings"], document["seeds"]
    return (
        f"{len(seeds)} seeds ({', '.join(map(str, seeds))}). Every arm but the first two: {s['pairs']} pairs, "
        f"{s['steps']} steps of {s['batch']}, AdamW with peak learning rate {s['lr']:g} falling as a cosine, LoRA of "
        f"rank {s['rank']} on {' and '.join(s['modules'])}, target {s['target']:,} positions. Scores: {s['samples']} "
        "haystacks at each length. Figures are means over seeds, with the smallest and the largest."
    )


def won(document: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Accuracy beyond the window."""
    header = ["arm", "single detail", "gained on base", "at the farthest", "two details, recall", "depths at 3 windows"]
    names = ("beyond", "gain", "farthest", "multi_recall_beyond", "middle")
    return header, [
        [arm, *(report.span(found.get(n), "mean") for n in names)] for arm, found in document["arms"].items()
    ]


def kept(document: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Accuracy and perplexity within the window."""
    header = ["arm", "single detail", "lost on base", "two details", "perplexity / base"]
    rows = [
        [
            arm,
            report.span(f["inside"], "mean"),
            report.span(f["lost"], "mean"),
            report.span(f["multi_inside"], "mean"),
            report.span(f["perplexity_ratio"], "mean", 3),
        ]
        for arm, f in document["arms"].items()
    ]
    return header, rows


def paid(document: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Tokens, time and memory of the training."""
    header = ["arm", "tokens read", "CPU seconds", "memory added"]
    rows = []
    for arm, figures in document["arms"].items():
        if "tokens" in figures:
            tokens, seconds, memory = (figures[n]["mean"] for n in ("tokens", "cpu_seconds", "added_memory"))
            rows.append([arm, f"{tokens:,.0f}", f"{seconds:.0f}", format_bytes(memory)])
    return header, rows


def bars(document: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Each bar, what was measured, and whether it held."""
    verdict = {True: "held", False: "missed", None: "not measured"}
    rows = []
    for bar in document["bars"]:
        measured = "-" if bar["measured"] is None else f"{bar['measured']:.3f}"
        rows.append([bar["claim"], f"at {bar['side']} {bar['limit']:.2f}", measured, verdict[bar["held"]]])
    return ["bar", "limit", "measured", "verdict"], rows


def figures(document: dict[str, Any]) -> dict[str, Any]:
    """The pictures of the page by name."""
    arms = document["arms"]
    gains = {
        name: tuple(found["gain"][key] for key in ("mean", "min", "max"))
        for name, found in arms.items()
        if name != "base"
    }
    runs = {name: [r["scores"] for r in document["records"] if r["arm"] == name] for name in MAIN if name in arms}
    lengths = runs["base"][0]["lengths"]
    curves = {name: [list(scores["single"].values()) for scores in found] for name, found in runs.items()}
    best = max(runs, key=lambda name: arms[name]["beyond"]["mean"])
    maps = {name: _map(found) for name, found in runs.items() if name in ("base", "LOGO")}
    return {
        "alignment_gains": plots.arm_gains(gains, marked=[n for n in ("SFT", "LOGO") if n in gains]),
        "alignment_lengths": plots.accuracy_by_length(lengths, curves, WINDOW, title=f"{best} reaches furthest"),
        "alignment_needles": plots.needle_maps(maps, WINDOW),
    }


def _map(found: list[dict[str, Any]]) -> NeedleMap:
    """The needle map of one arm, its shares averaged over the seeds."""
    shares = torch.tensor([scores["needles"] for scores in found], dtype=torch.float64).mean(0)
    return NeedleMap(tuple(found[0]["depths"]), tuple(found[0]["lengths"]), shares, len(found))
