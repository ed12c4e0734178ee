"""Which chunks a scorer ranks first: recall of the critical ones, in three settings, and a threshold for `build_pairs`.

    recall@k      of a question's critical chunks the share among its k best, by the mean over questions
    at critical   recall@k with k the number of its critical chunks
    threshold     where F1 of critical against irrelevant is highest, over all questions about seen words

Equal scores are put in a random order: a scorer that knows nothing has the recall of chance.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from random import Random
from typing import Any

import numpy as np

from minilib.bench.real_alignment.figures import drawn
from minilib.bench.scorers import people
from minilib.preferences.chunking import chunk_text, count_words

CELLS = {  # part of the words, whether people have names
    "same names": {"part": 1, "names": True},
    "other words, seen": {"part": 0},
    "other words, unseen": {"part": 1},
}
KS = range(1, 9)
Scorer = Callable[[str, str, dict], float]


def asked_texts(cell: str, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The texts of a setting: their chunks, their four rows, and of every row which chunks are critical."""
    length, seed = settings["length"], settings["text_seed"]
    stream = people.documents(length=length, seed=seed, measure=count_words, **CELLS[cell])
    found = []
    for rows in islice(stream, settings["texts"]):
        chunks = chunk_text(rows[0]["context"], settings["chunk"])
        found.append({"chunks": chunks, "rows": rows, "critical": [people.critical(row, chunks) for row in rows]})
    return found


def scored(texts: list[dict], scorer: Scorer) -> list[list[list[float]]]:
    """By text and row, the score of every chunk."""
    return [[[float(scorer(c, row["question"], row)) for c in t["chunks"]] for row in t["rows"]] for t in texts]


def recalls(texts: list[dict], scores: list[list[list[float]]]) -> dict[str, Any]:
    """Recall at as many chunks as are critical with an interval over texts, and the curve of recall@k."""
    rng, sums, curve = Random(0), [], []
    for text, found in zip(texts, scores):
        of_text = []
        for critical, row in zip(text["critical"], found):
            order = sorted(range(len(row)), key=lambda k: (-row[k], rng.random()))
            hits = np.cumsum([critical[k] for k in order]) / sum(critical)
            of_text.append(hits[sum(critical) - 1])
            curve.append(hits[: len(KS)])
        sums.append(sum(of_text))
    counts = np.array([len(text["rows"]) for text in texts])
    return {
        "at_critical": drawn(np.array(sums), counts), "curve": [round(float(r), 4) for r in np.mean(curve, axis=0)],
    }  # fmt: skip


def best_threshold(texts: list[dict], scores: list[list[list[float]]]) -> float:
    """The score above which a chunk is best called critical; midway between two scores that occur."""
    flat = [
        (score, critical)
        for text, found in zip(texts, scores)
        for flags, row in zip(text["critical"], found)
        for score, critical in zip(row, flags)
    ]
    flat.sort(reverse=True)
    values, flags = np.array([score for score, _ in flat]), np.array([critical for _, critical in flat])
    hits = np.cumsum(flags)
    f1 = 2 * hits / (np.arange(1, len(flags) + 1) + flags.sum())
    f1[:-1][values[:-1] == values[1:]] = 0  # no threshold lies between equal scores
    best = int(f1[:-1].argmax())
    return float((values[best] + values[best + 1]) / 2)


def told_places(chunk: str, question: str, row: dict) -> int:
    """The ceiling: a scorer that is told where the facts stand."""
    start = row["context"].index(chunk)
    return int(people.critical(row, [row["context"][:start], chunk])[1])
