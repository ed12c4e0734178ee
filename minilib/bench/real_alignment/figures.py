"""What the records of the campaign say: shares with bootstrap intervals, differences, what each part adds, aims.

    facts right       share of the values that were asked for and are in the answer
    whole answers     share of answers with all values and no other
    invented          share of answers that name a value which is not the asked person's
    sentences         share of answers that are one whole sentence
    named             values that answers name, right or wrong, for each that was asked for
    precision         of the values that answers name, the share that is right
    kept              of the short questions that the base answers right, the share that are still right

Intervals are 95 %, from 2,000 draws of whole texts with replacement. Every seed has texts of its own, so shares are
told of the seeds that all arms have. Differences are drawn over all texts that both arms have answered, pair by pair;
one whose interval holds 0 counts as none. How much training varies, no draw of texts can say: differences are told seed
by seed as well.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from minilib.bench.real_alignment.arms import ARMS

DRAWS = 2_000
DEPTHS = ((0.0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.01))
ASKED = yaml.safe_load(Path(__file__).with_name("comparisons.yaml").read_text(encoding="utf-8"))


def summarised(records: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """`arms`: figures of every arm; `shared`: the seeds of all arms; `aims`: what was hoped for, whether it held."""
    by_arm: dict[str, dict[int, dict]] = {}
    for record in sorted(records, key=lambda record: [*ARMS].index(record["arm"])):
        by_arm.setdefault(record["arm"], {})[record["seed"]] = record
    shared = sorted(set.intersection(*map(set, by_arm.values()))) if by_arm else []
    arms = {name: _arm(runs, by_arm, shared, settings["window"]) for name, runs in by_arm.items()}
    short = next((run["scores"]["general"] for run in by_arm.get("base", {}).values()), [])
    aims = []
    for aim in ASKED["aims"]:
        found = arms.get(aim["arm"], {}).get(aim["figure"])
        value, limit = found["mean"] if isinstance(found, dict) else found, aim["limit"]
        held = None if value is None else (value >= limit if aim["side"] == "least" else value <= limit)
        aims.append({"claim": aim["claim"], "side": aim["side"], "limit": limit, "measured": value, "held": held})
    found = {"arms": arms, "aims": aims, "parts": _parts(by_arm, settings["window"])}
    return found | {"shared": shared, "short_questions": {"asked": len(short), "base": sum(short)}}


def _parts(by_arm: dict[str, dict[int, dict]], window: int) -> list[dict[str, Any]]:
    """What each part adds inside the window, where both arms have run."""
    inside = {arm: _inside(_texts(runs), window) for arm, runs in by_arm.items()}
    return [
        {"part": part, "seeds": len({seed for seed, *_ in inside[arm].keys() & inside[other]})}
        | {name: _difference(inside[arm], inside[other], of) for name, of in (MEASURES | NAMED).items()}
        | {"by_seed": _by_seed(inside[arm], inside[other]), "by_length": _by_length(inside[arm], inside[other])}
        for part, arm, other in ASKED["parts"]
        if arm in inside and other in inside
    ]


def _arm(runs: dict[int, dict], by_arm: dict[str, dict[int, dict]], shared: list[int], window: int) -> dict[str, Any]:
    texts = _texts(runs)
    inside = _inside(texts, window)
    beyond = {key: told for key, told in texts.items() if key[1] > window}  # under one seed, the same for all arms
    alike = {key: told for key, told in inside.items() if key[0] in shared}
    base, sft = (_texts(by_arm.get(name, {})) for name in ("base", "SFT"))
    figures: dict[str, Any] = {"seeds": sorted(runs)}
    for name, part in (("inside", alike), ("beyond", beyond)):
        for measure, function in (MEASURES | NAMED).items():
            figures[f"{measure}_{name}"] = _spread(part, function)
    figures["lengths"] = {
        str(length): _spread({key: told for key, told in (alike | beyond).items() if key[1] == length}, _facts)
        for length in sorted({key[1] for key in texts})
    }
    figures["depths"] = [_at_depth(alike, low, high) for low, high in DEPTHS]
    figures["over_base"] = _difference(inside, base)
    figures["over_sft"] = _difference(inside, sft)
    figures["precision_over_base"] = _difference(inside, base, NAMED["precision"])
    figures["over_base_by_seed"] = _by_seed(inside, base)
    figures["kept"] = _kept(runs, by_arm.get("base", {}))
    figures["short_right"] = [sum(runs[seed]["scores"]["general"]) for seed in sorted(runs)]
    found = [(run, by_arm.get("base", {}).get(seed)) for seed, run in runs.items()]
    ratios = [r["scores"]["perplexity"] / b["scores"]["perplexity"] for r, b in found if b]
    figures["perplexity_ratio"] = statistics.mean(ratios) if ratios else None
    for cost in ("tokens", "peak_memory"):
        figures[cost] = _mean_cost(runs.values(), cost)
    figures["cpu_seconds"] = {
        cpu: _mean_cost([run for run in runs.values() if run["machine"]["cpu"] == cpu], "cpu_seconds")
        for cpu in (run["machine"]["cpu"] for run in runs.values())
    }
    figures["chosen"] = _chosen({seed: run for seed, run in runs.items() if seed in shared})
    return figures


def _mean_cost(runs: Iterable[dict], cost: str) -> float | None:
    """Over the runs that have it: none of the base, and none of a run that was killed once."""
    spent = [run["costs"][cost] for run in runs if run.get("costs", {}).get(cost) is not None]
    return statistics.mean(spent) if spent else None


Texts = dict[tuple[int, int, int], list[dict[str, Any]]]


def _texts(runs: dict[int, dict]) -> Texts:
    """The verdicts by (seed, length, number of the text)."""
    found: Texts = {}
    for seed, run in runs.items():
        for part, verdicts in run["scores"].items():
            if part.startswith("text "):
                _, length, number = part.split()
                found[seed, int(length), int(number)] = verdicts
    return found


def _inside(texts: Texts, window: int) -> Texts:
    return {key: told for key, told in texts.items() if key[1] <= window}


def _facts(verdicts: list[dict]) -> list[float]:
    return [float(right) for verdict in verdicts for right in verdict["right"]]


MEASURES: dict[str, Callable[[list[dict]], list[float]]] = {
    "facts": _facts,
    "whole": lambda verdicts: [float(all(v["right"]) and not v["wrong"]) for v in verdicts],
    "invented": lambda verdicts: [float(bool(v["wrong"])) for v in verdicts],
    "sentences": lambda verdicts: [float(v["sentence"]) for v in verdicts],
}
NAMED: dict[str, Callable[[list[dict]], list[float]]] = {
    "named": lambda verdicts: [_named(v) / len(v["right"]) for v in verdicts for _ in v["right"]],
    "precision": lambda verdicts: [float(k < sum(v["right"])) for v in verdicts for k in range(_named(v))],
}


def _named(verdict: dict) -> int:
    return sum(verdict["right"]) + len(verdict["wrong"])


def _spread(texts: Texts, measure: Callable[[list[dict]], list[float]]) -> dict[str, float] | None:
    """Mean and interval, texts drawn as a whole."""
    if not texts:
        return None
    return drawn(*_sums(texts.values(), measure))


def _sums(texts: Iterable[list[dict]], measure: Callable[[list[dict]], list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Of each text the sum of what is measured and how often it was."""
    values = [measure(verdicts) for verdicts in texts]
    return np.array([sum(v) for v in values]), np.array([len(v) for v in values])


def drawn(*parts: np.ndarray) -> dict[str, float]:
    """Sums over counts of the texts, less those of another arm where two more are given; texts drawn as a whole."""
    picked = np.random.default_rng(0).integers(len(parts[0]), size=(DRAWS, len(parts[0])))

    def share(texts: np.ndarray) -> np.ndarray:  # (..., texts) -> (...)
        ratios = [s[texts].sum(-1) / np.maximum(n[texts].sum(-1), 1) for s, n in zip(parts[::2], parts[1::2])]
        return ratios[0] - sum(ratios[1:])  # at least 1 below: nothing may have been named

    low, high = np.quantile(share(picked), [0.025, 0.975])
    mean = share(np.arange(len(parts[0])))
    return {"mean": round(float(mean), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def _difference(
    texts: Texts, others: Texts, measure: Callable[[list[dict]], list[float]] = _facts
) -> dict[str, float] | None:
    """The share of right facts, or another one, less that of another arm on the same texts."""
    both = [key for key in texts if key in others]
    if not both:
        return None
    mine, theirs = ([part[key] for key in both] for part in (texts, others))
    return drawn(*_sums(mine, measure), *_sums(theirs, measure))


SEED, LENGTH = 0, 1  # what a text's key holds, in this order


def _by(place: int, texts: Texts, others: Texts) -> dict[int, dict[str, float]]:
    """The difference of right facts under each seed or at each length that both arms have, in ascending order."""
    found = sorted({key[place] for key in texts.keys() & others.keys()})
    return {value: _difference({k: told for k, told in texts.items() if k[place] == value}, others) for value in found}


def _by_seed(texts: Texts, others: Texts) -> list[float]:
    """The mean difference under each seed, in the order of the seeds."""
    return [difference["mean"] for difference in _by(SEED, texts, others).values()]


def _by_length(texts: Texts, others: Texts) -> dict[str, dict[str, float]]:
    """The difference at each length, by keys as JSON has them."""
    return {str(length): difference for length, difference in _by(LENGTH, texts, others).items()}


def _chosen(runs: dict[int, dict]) -> dict[str, float] | None:
    """Mean log-probability of a chosen answer's token, before training moves a weight and over the last ten steps."""
    key = "logps/chosen"  # which the neighbours' losses do not log
    curves = [[step[key] for step in run.get("curve", ()) if key in step] for run in runs.values()]
    if not curves or not all(curves):
        return None
    # warm-up begins at rate 0: the first two steps see the weights as they were
    parts = {"first": slice(2), "last": slice(-10, None)}
    return {name: round(statistics.mean(v for curve in curves for v in curve[part]), 4) for name, part in parts.items()}


def _at_depth(texts: Texts, low: float, high: float) -> float | None:
    verdicts = [verdict for told in texts.values() for verdict in told]
    facts = [fact for verdict in verdicts for fact in zip(verdict["right"], verdict["depths"])]
    found = [float(right) for right, depth in facts if low <= depth < high]
    return round(statistics.mean(found), 4) if found else None


def _kept(runs: dict[int, dict], base: dict[int, dict]) -> float | None:
    known = next((run["scores"]["general"] for run in base.values()), None)
    if known is None or not any(known):
        return None
    still = [sum(r for r, before in zip(run["scores"]["general"], known) if before) for run in runs.values()]
    return statistics.mean(right / sum(known) for right in still)
