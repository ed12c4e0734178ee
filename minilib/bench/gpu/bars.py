"""The bars of a run on a GPU: those of `targets`, scaled to what this GPU reaches, next to what its stops measured.

    at most, at best   seconds x 788 TFLOP/s, for which they were set / measured rate of torch.mm in bf16; others as set
    share of floor     seconds of the fewest matmuls at the measured rate / measured seconds

What a run has not measured is None, and so is every verdict about it.
"""

from __future__ import annotations

from typing import Any

from minilib.bench import targets

SET_FOR = 788e12  # operations per second of torch.mm in bf16 on the H200 for which the bars were set
STEP = 1 / 2.3  # seconds of a LOGO step with a shared prompt to those with full sequences, M = 2
NOTHING = {"unit": "gpu", "settings": targets.LOGPS_GPU_SIZE, "gpu": {}, "ratio": {}}
Run = dict[str, Any]


def result_of(run: Run, name: str) -> Run:
    """The document of a stop; an empty one where it was not reached."""
    return next((stop.get("result") for stop in run["stops"] if stop["name"] == name), None) or {}


def judged(run: Run) -> list[Run]:
    """Every bar as a row: claim, kind, limit, best, measured, held, and its share of the floor."""
    documents = [stop.get("result") or {} for stop in run["stops"]]
    together = {"unit": "gpu", "settings": {"dim": targets.DIM}}
    for name in ("timings", "memory", "equality"):
        found = (document.get(name) for document in documents if document.get("benchmark") == "contrastive")
        together[name] = [row for rows in found for row in rows]
    rate = rate_of(run)
    rows = targets.contrastive(together) + targets.logps(NOTHING | result_of(run, "head"))
    shared = (NOTHING | result_of(run, "logo"))["ratio"].get("shared, M = 2")
    rows.append(
        targets.judged("LOGO step of 8B, shared / concatenated, M = 2", STEP, shared and shared["median"], kind="ratio")
    )
    return [_scaled(row, rate) if row["kind"] == "seconds" and rate else row for row in rows]


def rate_of(run: Run) -> float | None:
    """Operations per second of torch.mm in bf16."""
    rows = result_of(run, "machine").get("rows", [])
    return next((row["rate"] for row in rows if row["name"] == "torch.mm bf16"), None)


def furthest(run: Run) -> str:
    """The stop whose bar is furthest from its floor: what is worth a profile."""
    known = [row for row in judged(run) if row.get("stop") and row.get("share")]
    return min(known, key=lambda row: row["share"])["stop"] if known else "infonce"


def _scaled(row: Run, rate: float) -> Run:
    limits = {name: row[name] * SET_FOR / rate for name in ("limit", "best") if row.get(name)}
    if row["measured"] is None:
        return row | limits
    size = targets.LOGPS_GPU_SIZE
    sizes = (row["batch"], row["batch"], row["dim"]) if row.get("batch") else tuple(size.values())
    seconds = row["floor"] * 2 * sizes[0] * sizes[1] * sizes[2] / rate
    return row | limits | {"held": row["measured"] <= limits["limit"], "share": seconds / row["measured"]}
