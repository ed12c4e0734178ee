"""The experiment as tables, figures and verdicts: from records to means over seeds, for the terminal and the book.

    beyond(run) = mean accuracy for single details over the lengths past the window of the tiny model
    change(run) = beyond(run) - beyond(base of the same seed)
    spread      = mean, smallest and largest value over the seeds

Differences and ratios are taken seed by seed, because a seed's haystacks are the same for all arms; then averaged.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from minilib.bench import report, targets
from minilib.evals.longcontext import NeedleMap
from minilib.models.tiny_lm import WINDOW
from minilib.teaching import plots
from minilib.teaching.memory import format_bytes

BARS = {  # claim: (what is measured, limit, whether it is a least or a most)
    "LOGO beyond the window, above base": ("LOGO", "gain", 0.10, "least"),
    "LOGO beyond the window, above SFT on the same answers": ("LOGO", "over_sft", 0.0, "least"),
    "LOGO in the window, accuracy lost": ("LOGO", "lost", 0.02, "most"),
    "LOGO in the window, perplexity to base": ("LOGO", "perplexity_ratio", 1.05, "most"),
}
MAIN = ("base", "SFT", "SFT, stretched positions", "LOGO")  # the arms of the curves
Cells = tuple[list[str], list[list[str]]]


def summarise(records: list[dict[str, Any]]) -> dict[str, Any]:
    """`arms`: every figure of every arm over its seeds; `bars`: limit, measured figure, and whether it held."""
    by_name: dict[str, dict[int, dict]] = {}
    for record in records:
        by_name.setdefault(record["arm"], {})[record["seed"]] = record
    arms = {name: _arm(runs, by_name["base"], by_name.get("SFT")) for name, runs in by_name.items()}
    bars = []
    for claim, (arm, figure, limit, side) in BARS.items():
        found = arms.get(arm, {}).get(figure)
        bars.append(targets.judged(claim, limit, found and found["mean"], side == "least", side=side))
    return {"arms": arms, "bars": bars}


def write(output: Path, document: dict[str, Any]) -> None:
    """alignment.md and its figures, in `output`."""
    (output / "alignment.md").write_text(page(document))
    for name, figure in figures(document).items():
        (output / f"{name}.png").write_bytes(plots.to_png(figure))


def page(document: dict[str, Any]) -> str:
    """The tables and bars as Markdown."""
    s, seeds = document["settings"], document["seeds"]
    common = (
        f"{len(seeds)} seeds ({', '.join(map(str, seeds))}). Every arm but the first two: {s['pairs']} pairs, "
        f"{s['steps']} steps of {s['batch']}, AdamW with peak learning rate {s['lr']:g} falling as a cosine, LoRA of "
        f"rank {s['rank']} on {' and '.join(s['modules'])}, target {s['target']:,} positions. Scores: {s['samples']} "
        "haystacks at each length. Figures are means over seeds, with the smallest and the largest."
    )
    tables = {"What is won beyond the window": won, "What is kept in the window": kept, "What it costs": paid}
    sections = [f"**{title}**\n\n{report.markdown(*t(document))}" for title, t in (tables | {"Bars": bars}).items()]
    return report.joined(report.machine_section(document), common, *sections)


def plain(document: dict[str, Any]) -> str:
    """The same tables for a terminal."""
    return "\n\n".join(report.plain(*build(document)) for build in (won, kept, paid, bars))


def won(document: dict[str, Any]) -> Cells:
    """Accuracy beyond the window."""
    header = ["arm", "single detail", "gained on base", "at the farthest", "two details, recall", "depths at 3 windows"]
    return header, _rows(document, "beyond", "gain", "farthest", "multi_recall_beyond", "middle")


def kept(document: dict[str, Any]) -> Cells:
    """Accuracy and perplexity within the window."""
    header = ["arm", "single detail", "lost on base", "two details", "perplexity / base"]
    return header, _rows(document, "inside", "lost", "multi_inside", "perplexity_ratio")


def paid(document: dict[str, Any]) -> Cells:
    """Tokens, time and memory of the training."""
    rows = []
    for arm, found in document["arms"].items():
        if "tokens" in found:  # the first two arms are not trained
            tokens, seconds, memory = (found[n]["mean"] for n in ("tokens", "cpu_seconds", "added_memory"))
            rows.append([arm, f"{tokens:,.0f}", f"{seconds:.0f}", format_bytes(memory)])
    return ["arm", "tokens read", "CPU seconds", "memory added"], rows


def bars(document: dict[str, Any]) -> Cells:
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
    gains = {n: tuple(f["gain"][key] for key in ("mean", "min", "max")) for n, f in arms.items() if n != "base"}
    runs = {name: [r["scores"] for r in document["records"] if r["arm"] == name] for name in MAIN if name in arms}
    curves = {name: [list(scores["single"].values()) for scores in found] for name, found in runs.items()}
    best, lengths = max(runs, key=lambda name: arms[name]["beyond"]["mean"]), runs["base"][0]["lengths"]
    maps = {}
    for name in (n for n in ("base", "LOGO") if n in runs):
        shares = torch.tensor([scores["needles"] for scores in runs[name]], dtype=torch.float64).mean(0)
        maps[name] = NeedleMap(tuple(runs[name][0]["depths"]), tuple(lengths), shares, len(runs[name]))
    return {
        "alignment_gains": plots.arm_gains(gains, marked=[n for n in ("SFT", "LOGO") if n in gains]),
        "alignment_lengths": plots.accuracy_by_length(lengths, curves, WINDOW, title=f"{best} reaches furthest"),
        "alignment_needles": plots.needle_maps(maps, WINDOW),
    }


def _rows(document: dict[str, Any], *names: str) -> list[list[str]]:
    rows = []
    for arm, found in document["arms"].items():
        rows.append([arm, *(report.span(found.get(n), "mean", 3 if n == "perplexity_ratio" else 2) for n in names)])
    return rows


def _arm(runs: dict[int, dict], base: dict[int, dict], sft: dict[int, dict] | None) -> dict[str, Any]:
    scores, start = ({seed: some[seed]["scores"] for seed in runs} for some in (runs, base))
    lengths = list(next(iter(scores.values()))["single"])
    figures = {
        "beyond": lambda s: _mean(scores[s], "single", True),
        "farthest": lambda s: scores[s]["single"][lengths[-1]],
        "inside": lambda s: _mean(scores[s], "single", False),
        "multi_inside": lambda s: _mean(scores[s], "multi", False),
        "gain": lambda s: _mean(scores[s], "single", True) - _mean(start[s], "single", True),
        "lost": lambda s: start[s]["retention"]["accuracy"] - scores[s]["retention"]["accuracy"],
        "perplexity_ratio": lambda s: scores[s]["retention"]["perplexity"] / start[s]["retention"]["perplexity"],
        "middle": lambda s: statistics.mean(scores[s]["middle"]["accuracy"]),
    }
    if any(int(length) > WINDOW for length in next(iter(scores.values()))["multi"]):
        figures["multi_beyond"] = lambda s: _mean(scores[s], "multi", True)
        figures["multi_recall_beyond"] = lambda s: _mean(scores[s], "multi_recall", True)
    if sft is not None:
        figures["over_sft"] = lambda s: _mean(scores[s], "single", True) - _mean(sft[s]["scores"], "single", True)
    for name in ("tokens", "cpu_seconds", "added_memory"):
        if all("costs" in run for run in runs.values()):
            figures[name] = lambda s, name=name: runs[s]["costs"][name]
    curves = {length: _over(lambda s, n=length: scores[s]["single"][n], runs) for length in lengths}
    return {name: _over(value, runs) for name, value in figures.items()} | {"single": curves}


def _mean(scores: dict[str, Any], kind: str, past: bool) -> float:
    """Mean accuracy over the lengths past the window, or over those in it."""
    return statistics.mean(value for length, value in scores[kind].items() if (int(length) > WINDOW) == past)


def _over(value: Callable[[int], float], seeds) -> dict[str, float]:
    found = [value(seed) for seed in seeds]
    return {"mean": statistics.mean(found), "min": min(found), "max": max(found)}
