"""From records to figures worth quoting: means over seeds with their spread, differences to the base, verdicts.

    beyond(run) = mean accuracy for single details over the lengths past the window of the tiny model
    change(run) = beyond(run) - beyond(base of the same seed)
    spread      = mean, smallest and largest value over the seeds

Differences and ratios are taken seed by seed, because a seed's haystacks are the same for all arms; then averaged.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from minilib.bench import targets
from minilib.models.tiny_lm import WINDOW

BARS = {  # claim: (what is measured, limit, whether it is a least or a most)
    "LOGO beyond the window, above base": ("LOGO", "gain", 0.10, "least"),
    "LOGO beyond the window, above SFT on the same answers": ("LOGO", "over_sft", 0.0, "least"),
    "LOGO in the window, accuracy lost": ("LOGO", "lost", 0.02, "most"),
    "LOGO in the window, perplexity to base": ("LOGO", "perplexity_ratio", 1.05, "most"),
}


def summarise(records: list[dict[str, Any]]) -> dict[str, Any]:
    """`arms`: every figure of every arm over its seeds; `bars`: limit, measured figure, and whether it held."""
    by_name: dict[str, dict[int, dict]] = {}
    for record in records:
        by_name.setdefault(record["arm"], {})[record["seed"]] = record
    arms = {name: _arm(runs, by_name["base"], by_name.get("SFT")) for name, runs in by_name.items()}
    return {"arms": arms, "bars": _bars(arms)}


def beyond(scores: dict[str, Any], kind: str = "single") -> float:
    """Mean accuracy over the lengths past the window."""
    return statistics.mean(value for length, value in scores[kind].items() if int(length) > WINDOW)


def inside(scores: dict[str, Any], kind: str = "single") -> float:
    """Mean accuracy over the lengths in the window."""
    return statistics.mean(value for length, value in scores[kind].items() if int(length) <= WINDOW)


def _arm(runs: dict[int, dict], base: dict[int, dict], sft: dict[int, dict] | None) -> dict[str, Any]:
    scores = {seed: run["scores"] for seed, run in runs.items()}
    start = {seed: base[seed]["scores"] for seed in runs}
    figures = {
        "beyond": lambda s: beyond(scores[s]),
        "farthest": lambda s: list(scores[s]["single"].values())[-1],
        "inside": lambda s: inside(scores[s]),
        "multi_inside": lambda s: inside(scores[s], "multi"),
        "gain": lambda s: beyond(scores[s]) - beyond(start[s]),
        "lost": lambda s: start[s]["retention"]["accuracy"] - scores[s]["retention"]["accuracy"],
        "perplexity_ratio": lambda s: scores[s]["retention"]["perplexity"] / start[s]["retention"]["perplexity"],
        "middle": lambda s: statistics.mean(scores[s]["middle"]["accuracy"]),
    }
    if any(int(length) > WINDOW for length in next(iter(scores.values()))["multi"]):
        figures["multi_beyond"] = lambda s: beyond(scores[s], "multi")
        figures["multi_recall_beyond"] = lambda s: beyond(scores[s], "multi_recall")
    if sft is not None:
        figures["over_sft"] = lambda s: beyond(scores[s]) - beyond(sft[s]["scores"])
    for name in ("tokens", "cpu_seconds", "added_memory"):
        if all("costs" in run for run in runs.values()):
            figures[name] = lambda s, name=name: runs[s]["costs"][name]
    curves = {length: over_seeds(lambda s, n=length: scores[s]["single"][n], runs) for length in _lengths(scores)}
    return {name: over_seeds(value, runs) for name, value in figures.items()} | {"single": curves}


def over_seeds(value: Callable[[int], float], seeds) -> dict[str, float]:
    """Mean, smallest and largest of `value(seed)`."""
    found = [value(seed) for seed in seeds]
    return {"mean": statistics.mean(found), "min": min(found), "max": max(found)}


def _lengths(scores: dict[int, dict]) -> list[str]:
    return list(next(iter(scores.values()))["single"])


def _bars(arms: dict[str, Any]) -> list[dict[str, Any]]:
    bars = []
    for claim, (arm, figure, limit, side) in BARS.items():
        found = arms.get(arm, {}).get(figure)
        measured = None if found is None else found["mean"]
        held = targets.held(measured, limit, least=side == "least")
        bars.append({"claim": claim, "side": side, "limit": limit, "measured": measured, "held": held})
    return bars
