"""The bars: what our losses promise at d = 512, on two CPU cores and on one H200, beside what this run measured.

A bar holds when the measured figure is at most its limit; it is "not measured" when the run left its batch, its width
or its peer out. Ratios are medians taken round by round, times are medians of the rounds, memory is the peak beside the
features themselves. A method that failed the gate was not timed, so its bars are not measured; its errors are.
"""

import math
from typing import Any, NamedTuple

DIM = 512


class Ratio(NamedTuple):
    """Seconds that `method` spends over those of `base`, at most `limit`."""

    method: str
    base: str
    batch: int
    limit: float
    loss: str = "clip"


class Peak(NamedTuple):
    """Peak extra bytes of `method`, with the gradients (`peak`) or without (`besides`), at most `limit`."""

    method: str
    part: str
    batch: int
    limit: float


class Time(NamedTuple):
    """Seconds that `method` spends on one step, at most `limit`."""

    method: str
    batch: int
    limit: float


class Error(NamedTuple):
    """Largest relative error of `method` against fp64 over all cases of the gate, at most `limit`."""

    method: str
    limit: float


RATIOS = {
    "cpu": (
        Ratio("tiled", "dense", 4096, 0.85),
        Ratio("tiled", "dense", 8192, 0.75),
        Ratio("tiled", "dense", 16384, 0.60),
        Ratio("tiled", "open_clip ClipLoss", 8192, 0.60),
        Ratio("tiled", "F.linear_cross_entropy, twice", 8192, 0.70),
        Ratio("tiled SigLIP", "dense SigLIP", 8192, 0.66, "siglip"),
        Ratio("tiled, keep all, bf16 gradients", "dense", 8192, 0.42),
    ),
    "card": (Ratio("fused bf16", "inf-cl", 65_536, 1 / 8),),
}
OTHERS = {
    "cpu": (
        Peak("tiled", "peak", 8192, 80e6),
        Peak("tiled", "besides", 16384, 32e6),
        Peak("tiled", "peak", 32768, 250e6),
    ),
    "card": (
        Time("fused bf16", 65_536, 36e-3),
        Time("fused SigLIP bf16", 65_536, 28e-3),
        Time("fused bf16", 1_048_576, 9.5),
        *(Peak("fused bf16", "besides", batch, 0.7e9) for batch in (16_384, 65_536, 262_144, 1_048_576)),
        Error("fused fp32", 1e-4),
    ),
}
Bar = Ratio | Peak | Time | Error
KINDS = {Ratio: "ratio", Peak: "bytes", Time: "seconds", Error: "error"}


def judge(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Every bar of this place with its limit, the measured figure (or None) and whether it held (or None)."""
    unit = document.get("unit", "cpu")
    judged = [(bar, measured(document, bar, unit)) for bar in (*RATIOS[unit], *OTHERS[unit])]
    return [
        {
            "claim": claim(bar),
            "kind": KINDS[type(bar)],
            **bar._asdict(),
            "measured": figure,
            "held": None if figure is None else figure <= bar.limit,
        }
        for bar, figure in judged
    ]


def claim(bar: Bar) -> str:
    """The bar in words."""
    match bar:
        case Ratio():
            return f"b = {bar.batch:,}: {bar.method} / {bar.base}"
        case Peak():
            return f"b = {bar.batch:,}: {bar.method}, extra memory{' besides the gradients' * (bar.part == 'besides')}"
        case Time():
            return f"b = {bar.batch:,}: {bar.method}, forward and backward"
        case Error():
            return f"{bar.method}: error against fp64, scale 14.3 and 100"


def measured(document: dict[str, Any], bar: Bar, unit: str) -> float | None:
    """The figure that `bar` is about, or None where the document has none."""
    match bar:
        case Ratio():
            found = _timed(document, bar.batch, bar.method).get("ratios", {}).get(bar.base)
            return found and found["median"]
        case Time():
            found = _timed(document, bar.batch, bar.method).get(unit)
            return found and found["median"]
        case Peak():
            asked = (bar.method, bar.batch, DIM)
            rows = [row for row in document["memory"] if (row["method"], row["batch"], row["dim"]) == asked]
            return rows[0].get(bar.part) if rows else None
        case Error():
            errors = [list(v["errors"].values()) for v in document["equality"] if v["method"] == bar.method]
            # max() overlooks NaN, the error of a method that could not be run.
            return (
                max((math.inf if math.isnan(error) else error for error in errors[0]), default=None) if errors else None
            )


def _timed(document: dict[str, Any], batch: int, method: str) -> dict[str, Any]:
    for timing in document["timings"]:
        dim = timing.get("dim", document["settings"].get("dim"))
        if (timing["batch"], dim) == (batch, DIM):
            return timing["summary"].get(method, {})
    return {}
