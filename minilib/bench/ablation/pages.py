"""The experiment as tables, figures and verdicts: from records to means over seeds, for the terminal and the book.

    beyond(run) = mean accuracy for single details over the lengths past the window of the tiny model
    change(run) = beyond(run) - beyond(base of the same seed)
    spread      = mean, smallest and largest value over the seeds

Differences and ratios are taken seed by seed, because a seed's haystacks are the same for all arms; then averaged.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch

from minilib.bench import report, targets
from minilib.evals.longcontext import NeedleMap
from minilib.models.tiny_lm import WINDOW
from minilib.teaching import plots

BARS = {  # claim: (what is measured, limit, whether it is a least or a most)
    "LOGO beyond the window, above base": ("LOGO", "gain", 0.10, "least"),
    "LOGO beyond the window, above SFT on the same answers": ("LOGO", "over_sft", 0.0, "least"),
    "LOGO in the window, accuracy lost": ("LOGO", "lost", 0.02, "most"),
    "LOGO in the window, perplexity to base": ("LOGO", "perplexity_ratio", 1.05, "most"),
}
MAIN = ("base", "SFT", "SFT, stretched positions", "LOGO")  # the arms of the curves
WON = {"single detail": "beyond", "gained on base": "gain", "at the farthest": "farthest"}
WON |= {"two details, recall": "multi_recall_beyond", "depths at 3 windows": "middle"}
KEPT = {"single detail": "inside", "lost on base": "lost", "two details": "multi_inside"}
KEPT |= {"perplexity / base": "perplexity_ratio"}


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
    return report.whole("alignment", document | {"tables": tables(document)})


def plain(document: dict[str, Any]) -> str:
    """The same tables for a terminal."""
    return "\n\n".join(tables(document, report.plain).values())


def tables(document: dict[str, Any], table: report.Table = report.markdown) -> dict[str, str]:
    """Accuracy beyond the window, what is kept in it, the costs of training, and the bars, by title."""
    arms = [{"name": name} | found for name, found in document["arms"].items()]
    trained = [arm for arm in arms if "tokens" in arm]  # the first two arms are not
    costs = "{name} | {tokens[mean]:,.0f} | {cpu_seconds[mean]:.0f} | {added_memory[mean]:bytes}"
    line = "{claim} | at {side} {limit:.2f} | {measured:.3f} | {held:verdict}"
    return {
        "What is won beyond the window": _spans(table, WON, arms),
        "What is kept in the window": _spans(table, KEPT, arms),
        "What it costs": report.build(table, "arm | tokens read | CPU seconds | memory added", costs, trained),
        "Bars": report.build(table, "bar | limit | measured | verdict", line, document["bars"]),
    }


def _spans(table: report.Table, columns: dict[str, str], arms: list[dict[str, Any]]) -> str:
    parts = ["{name}"]
    for figure in columns.values():
        form = ".3f" if figure == "perplexity_ratio" else ".2f"
        parts.append("{0[mean]:1} ({0[min]:1} to {0[max]:1})".replace("0", figure).replace(":1", f":{form}"))
    return report.build(table, " | ".join(["arm", *columns]), " | ".join(parts), arms)


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


def _arm(runs: dict[int, dict], base: dict[int, dict], sft: dict[int, dict] | None) -> dict[str, Any]:
    scores, start = ({seed: some[seed]["scores"] for seed in runs} for some in (runs, base))
    first = next(iter(scores.values()))
    lengths = list(first["single"])
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
    if any(int(length) > WINDOW for length in first["multi"]):
        figures["multi_beyond"] = lambda s: _mean(scores[s], "multi", True)
        figures["multi_recall_beyond"] = lambda s: _mean(scores[s], "multi_recall", True)
    if sft is not None:
        figures["over_sft"] = lambda s: _mean(scores[s], "single", True) - _mean(sft[s]["scores"], "single", True)
    if all("costs" in run for run in runs.values()):
        for name in ("tokens", "cpu_seconds", "added_memory"):
            figures[name] = lambda s, name=name: runs[s]["costs"][name]
    curves = {length: _over([scores[s]["single"][length] for s in runs]) for length in lengths}
    return {name: _over([value(seed) for seed in runs]) for name, value in figures.items()} | {"single": curves}


def _mean(scores: dict[str, Any], kind: str, past: bool) -> float:
    """Mean accuracy over the lengths past the window, or over those in it."""
    return statistics.mean(value for length, value in scores[kind].items() if (int(length) > WINDOW) == past)


def _over(found: list[float]) -> dict[str, float]:
    return {"mean": statistics.mean(found), "min": min(found), "max": max(found)}
