"""The bars: what the tiled loss promises on two CPU cores at d = 512, beside what this run measured.

A bar holds when the measured figure is at most its limit; it is "not measured" when the run left its batch, its width
or its peer out. Ratios are medians of CPU seconds taken round by round. Proven in tests/test_bench_is_honest.py.
"""

from typing import Any, NamedTuple

DIM = 512


class Ratio(NamedTuple):
    """CPU seconds of `method` over those of `base`, at most `limit`."""

    method: str
    base: str
    batch: int
    limit: float


class Peak(NamedTuple):
    """Peak extra bytes of `method`, with the gradients (`peak`) or without (`besides`), at most `limit`."""

    method: str
    part: str
    batch: int
    limit: float


RATIOS = (
    Ratio("tiled", "dense", 4096, 0.85),
    Ratio("tiled", "dense", 8192, 0.75),
    Ratio("tiled", "dense", 16384, 0.60),
    Ratio("tiled", "open_clip ClipLoss", 8192, 0.60),
    Ratio("tiled", "F.linear_cross_entropy, twice", 8192, 0.70),
    Ratio("tiled SigLIP", "dense SigLIP", 8192, 0.66),
    Ratio("tiled, keep all, bf16 gradients", "dense", 8192, 0.42),
)
PEAKS = (
    Peak("tiled", "peak", 8192, 80e6),
    Peak("tiled", "besides", 16384, 32e6),
    Peak("tiled", "peak", 32768, 250e6),
)


def judge(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Every bar with its limit, the measured figure (or None) and whether it held (or None)."""
    judged = [(bar, _ratio(document, bar)) for bar in RATIOS] + [(bar, _bytes(document, bar)) for bar in PEAKS]
    return [
        {
            "claim": claim(bar),
            "kind": "ratio" if isinstance(bar, Ratio) else "bytes",
            **bar._asdict(),
            "measured": measured,
            "held": None if measured is None else measured <= bar.limit,
        }
        for bar, measured in judged
    ]


def claim(bar: Ratio | Peak) -> str:
    """The bar in words."""
    if isinstance(bar, Ratio):
        return f"b = {bar.batch:,}: {bar.method} / {bar.base}"
    return f"b = {bar.batch:,}: {bar.method}, extra memory{' besides the gradients' * (bar.part == 'besides')}"


def _ratio(document: dict[str, Any], bar: Ratio) -> float | None:
    for timing in document["timings"]:
        if timing["batch"] == bar.batch and document["settings"]["dim"] == DIM:
            found = timing["summary"].get(bar.method, {}).get("ratios", {}).get(bar.base)
            return found and found["median"]
    return None


def _bytes(document: dict[str, Any], bar: Peak) -> float | None:
    rows = [r for r in document["memory"] if (r["method"], r["batch"], r["dim"]) == (bar.method, bar.batch, DIM)]
    return rows[0].get(bar.part) if rows else None
