"""What the runs of `questions` say: gains draw by draw, and the page of the book.

gain     right answers beyond the window, a mean over the lengths, less those of the base on the same draw
inside   answers to questions for two things within the window that name both, less the base's
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from minilib.bench import report

LOGO, SFT = "LOGO", "SFT, stretched positions"


def gains(document: dict[str, Any], question: str, inside: bool = False) -> dict[str, dict[str, dict[str, float]]]:
    """{level: {arm: {draw: gain}}} of one question; a draw whose base is not measured yet is left out."""
    scores = {tuple(record["run"]): record["scores"] for record in document["records"]}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (draw, arm, asked, level), score in scores.items():
        base = scores.get((draw, None, "base", ""))
        if asked == question and base is not None:
            gain = _measure(score, inside) - _measure(base, inside)
            found.setdefault(level, {}).setdefault(arm, {})[draw] = gain
    return found


def spread(values: Iterable[float], least: float = 0.1) -> str:
    """Mean, smallest and largest of some gains, and how many of them exceed `least`."""
    values = list(values)
    if not values:
        return "not run yet"
    above = sum(value > least + 1e-9 for value in values)  # sixtieths that are a tenth are not above it
    return f"{_told(values)}, above {least} on {above} of {len(values)}"


def advantages(document: dict[str, Any]) -> dict[str, list[float]]:
    """Of every question and level that both arms were run on, LOGO's gain less SFT's, draw by draw."""
    levels = ((question, *of) for question in _questions(document) for of in gains(document, question).items())
    found = {f"{question}, {level}": _over(arms) for question, level, arms in levels}
    return {name: values for name, values in found.items() if values}


def verdict(document: dict[str, Any]) -> str:
    """Where LOGO is ahead of SFT at the same stretched positions on every draw, and where behind."""
    over = advantages(document)
    ahead = [f"{name} ({_told(values)})" for name, values in over.items() if min(values) > 0 and len(values) > 1]
    behind = [f"{name} ({_told(values)})" for name, values in over.items() if max(values) < 0 and len(values) > 1]
    told = [f"LOGO is {side} SFT at the same positions on every draw in: {'; '.join(names)}."
            for side, names in (("ahead of", ahead), ("behind", behind)) if names]  # fmt: skip
    return " ".join([*told, "Everywhere else neither of the two is ahead on every draw."])


def summary(document: dict[str, Any]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """{question: {level: {arm: mean, min and max of its gains}}}; LOGO over SFT and two details stand there as arms."""
    found: dict[str, dict] = {}
    for question in _questions(document):
        near = gains(document, question, inside=True)
        for level, arms in gains(document, question).items():
            values = {arm: list(by_draw.values()) for arm, by_draw in arms.items()} | {"LOGO over SFT": _over(arms)}
            values |= {f"{arm}, two details": list(by_draw.values()) for arm, by_draw in near[level].items()}
            told = {arm: {"mean": statistics.mean(v), "min": min(v), "max": max(v)} for arm, v in values.items() if v}
            found.setdefault(question, {})[level] = told
    return found


def tables(document: dict[str, Any], table: report.Table = report.markdown) -> dict[str, str]:
    """A table for each question, with a row for each level that was run."""
    found = {}
    for question in _questions(document):
        far, near = gains(document, question), gains(document, question, inside=True)
        rows = []
        for level, arms in far.items():
            row = {"level": level, "over": _told(_over(arms)), "draws": max(map(len, arms.values()))}
            row |= {key: _told(arms.get(arm, {}).values()) for key, arm in (("logo", LOGO), ("sft", SFT))}
            row |= {"logo_in": _told(near[level].get(LOGO, {}).values())}
            rows.append(row | {"sft_in": _told(near[level].get(SFT, {}).values())})
        header = f"{question} | draws | LOGO | SFT, stretched | LOGO over SFT | LOGO, two details | SFT, two details"
        line = "{level} | {draws} | {logo} | {sft} | {over} | {logo_in} | {sft_in}"
        found[question] = report.build(table, header, line, rows)
    return found


def page(document: dict[str, Any]) -> str:
    """The page of the book."""
    by_draw = gains(document, "texts").get("as in the lesson", {})
    rows = [{"draw": draw, "logo": gain, "sft": by_draw.get(SFT, {}).get(draw)} for draw, gain in
            by_draw.get(LOGO, {}).items()]  # fmt: skip
    parts = document | {"tables": tables(document), "spreads": {n: spread(by_draw[n].values()) for n in by_draw}}
    parts["verdict"] = verdict(document)
    parts["by_draw"] = report.build(
        report.markdown, "draw | LOGO | SFT, stretched", "{draw} | {logo:+.2f} | {sft:+.2f}", rows
    )
    return report.whole("preference", parts)


def _questions(document: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(record["run"][2] for record in document["records"] if record["run"][1]))


def _over(arms: dict[str, dict[str, float]]) -> list[float]:
    """LOGO's gain less SFT's, on the draws that both ran on."""
    sft = arms.get(SFT, {})
    return [gain - sft[draw] for draw, gain in arms.get(LOGO, {}).items() if draw in sft]


def _measure(score: dict[str, Any], inside: bool) -> float:
    if inside:
        return statistics.mean(each["accuracy"] for each in score["multi"].values())
    return statistics.mean(score["single"].values())


def _told(values: Iterable[float]) -> str:
    values = list(values)
    return f"{statistics.mean(values):+.2f} ({min(values):+.2f} to {max(values):+.2f})" if values else "-"
