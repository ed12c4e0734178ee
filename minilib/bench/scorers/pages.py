"""The experiment on scorers as tables: recall, tuning, pairs, aligned models; for terminal and book.

Intervals are 95 %, from 2,000 draws of whole texts with replacement. All seeds of an aligned model are asked about the
same texts, so a text with its answers under every seed is one draw.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np

from minilib.bench import report
from minilib.bench.real_alignment.figures import drawn

TUNED = "MiniLM, tuned"
SPAN = "{N[mean]:.2f} ({N[low]:.2f} to {N[high]:.2f})"


def summarised(document: dict[str, Any]) -> dict[str, Any]:
    """`aligned`: by scorer the shares over all seeds that are done."""
    by_name: dict[str, dict[int, list]] = {}
    for found in document["parts"].values():
        if found.get("texts"):
            by_name.setdefault(found["chunks_by"], {})[found["seed"]] = found["texts"]
    base, aligned = by_name.get("base", {}), {}
    for name, runs in by_name.items():
        texts = [list(chain(*same)) for same in zip(*runs.values(), strict=True)]
        facts, wanted = (np.array([f(text) for text in texts]) for f in (_facts_right, _facts))
        questions = np.array([len(text) for text in texts])
        whole = np.array([sum(all(a["right"]) and not a["wrong"] for a in text) for text in texts])
        invented = np.array([_invented(text) for text in texts])
        aligned[name] = {"seeds": sorted(runs), "facts": drawn(facts, wanted), "whole": drawn(whole, questions)}
        aligned[name]["invented"] = drawn(invented, questions)
        aligned[name]["by_seed"] = [
            round(sum(map(_facts_right, run)) / sum(map(_facts, run)), 4) for run in runs.values()
        ]
        if base and name != "base":
            start = next(iter(base.values()))
            before = np.array([[_facts_right(text), _invented(text)] for text in start]).T * len(runs)
            aligned[name]["over_base"] = drawn(facts - before[0], wanted)
            aligned[name]["invented_over_base"] = drawn(invented - before[1], questions)
    return {"aligned": aligned}


def _facts_right(text: list[dict]) -> int:
    return sum(right for answer in text for right in answer["right"])


def _invented(text: list[dict]) -> int:
    return sum(bool(answer["wrong"]) for answer in text)


def _facts(text: list[dict]) -> int:
    return sum(len(answer["right"]) for answer in text)


def page(document: dict[str, Any]) -> str:
    """The page in Markdown."""
    return report.whole("scorers", document | {"tables": tables(document)})


def plain(document: dict[str, Any]) -> str:
    """The same tables for a terminal."""
    return "\n\n".join(filter(None, tables(document, report.plain).values()))


def tables(document: dict[str, Any], table: report.Table = report.markdown) -> dict[str, str]:
    """The tables of the page by title; those without a finished part are empty."""
    parts = document["parts"]
    rows = [{"name": part.removeprefix("recall, ")} | found for part, found in parts.items() if "same names" in found]
    cells = ("same names", "other words, seen", "other words, unseen")
    spans = [SPAN.replace("N", f"{cell}[at_critical]") for cell in cells]
    tunings = [found for part, found in parts.items() if part.startswith("tuning")]
    made = [
        {"name": name.removeprefix("pairs, ")} | found for name, found in parts.items() if name.startswith("pairs, ")
    ]
    for entry in made:
        entry["skipped"] = sum(entry["report"]["skipped"].values())
    aligned = [{"name": name} | found for name, found in document["aligned"].items()]
    shares = [SPAN.replace("N", name) for name in ("facts", "whole", "invented")]
    return {
        "Recall of the critical chunks": report.build(
            table, " | ".join(["scorer", *cells]), " | ".join(["{name}", *spans]), rows
        ),
        "Tuning": report.build(
            table, "batch | steps | peak learning rate | other right chunks | loss, first | last | CPU seconds",
            "{batch:,} | {steps} | {lr:.1e} | {others:.1f} | {losses[0]:.2f} | {last:.2f} | {spent:,.0f}",
            tunings,
        ),
        "Pairs": report.build(
            table, "scorer | rows read | skipped | pairs | facts in prompt | facts in chosen | chosen right | "
            "rejected wrong",
            "{name} | {report[rows]} | {skipped} | {pairs} | {facts_in_prompt:.2f} | {chosen_facts:.2f} | "
            "{chosen_right:.2f} | {rejected_wrong:.2f}", made,
        ),
        "Aligned models": report.build(
            table, "chunks by | facts right, by seed | facts right | whole answers | invented | facts right, to base",
            " | ".join(["{name}", "{by_seed:.2f}", *shares, SPAN.replace("N", "over_base").replace(":.", ":+.")]),
            aligned,
        ),
    }  # fmt: skip
