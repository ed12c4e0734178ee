"""The bars of a run on a GPU: what is promised for an H200, scaled to what this GPU reaches, next to what was measured.

    must, stretch   seconds x 788 TFLOP/s, the rate they were set for / measured rate of torch.mm in bf16; others as set
    share of floor  seconds of the fewest matmuls at the measured rate / measured seconds

What a run has not measured is None, and so is every verdict about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from minilib.bench.targets import LOGPS_GPU_SIZE

SET_FOR = 788e12  # operations per second of torch.mm in bf16 on the H200 for which the bars were set
FUSED, SIGMOID, SWEEP, ALONE = "fused bf16", "fused SigLIP bf16", "margin sweep", "margin sweep, no SFT term"
PAIRS = 2 * 65_536**2 * 512  # operations of a matmul
HEAD = 2 * LOGPS_GPU_SIZE["tokens"] * LOGPS_GPU_SIZE["dim"] * LOGPS_GPU_SIZE["words"]
Run = dict[str, Any]


class Bar(NamedTuple):
    """A figure that shall be at most `must`, and at best `stretch`; `floor` are operations that cannot be saved."""

    claim: str
    form: str  # of its figures, as `report.build` knows them
    must: float
    stretch: float | None
    figure: Callable[[Run], float | None]
    floor: float | None = None
    stop: str | None = None  # what `bench gpu` profiles, where this bar is furthest from its floor


def judged(run: Run) -> list[dict[str, Any]]:
    """Every bar as a row: claim, must, stretch, measured, held, and its share of the floor."""
    rate, rows = rate_of(run), []
    for bar in BARS:
        scale = SET_FOR / rate if bar.floor and rate else 1.0
        measured, limits = bar.figure(run), [None if x is None else x * scale for x in (bar.must, bar.stretch)]
        share = bar.floor / rate / measured if bar.floor and rate and measured else None
        row = {"claim": bar.claim, "form": bar.form, "must": limits[0], "stretch": limits[1], "stop": bar.stop}
        rows.append(row | {"measured": measured, "held": measured and measured <= limits[0], "share": share})
    return rows


def rate_of(run: Run) -> float | None:
    """Operations per second of torch.mm in bf16."""
    rows = (_result(run, "machine") or {}).get("rows", [])
    return next((row["rate"] for row in rows if row["name"] == "torch.mm bf16"), None)


def _result(run: Run, name: str) -> Run | None:
    return next((stop.get("result") for stop in run["stops"] if stop["name"] == name), None)


def _timings(run: Run) -> Iterator[Run]:
    for stop in run["stops"]:
        yield from (stop.get("result") or {}).get("timings", [])


def _seconds(batch: int, dim: int, method: str) -> Callable[[Run], float | None]:
    def figure(run: Run) -> float | None:
        of_size = (t["summary"] for t in _timings(run) if (t["batch"], t["dim"]) == (batch, dim))
        return next((summary[method]["gpu"]["median"] for summary in of_size if method in summary), None)

    return figure


def _over(batch: int, dim: int, method: str, base: str) -> Callable[[Run], float | None]:
    """The median ratio of seconds to those of `base`, taken round by round."""

    def figure(run: Run) -> float | None:
        for timing in _timings(run):
            rounds = [r for r in timing["rounds"] if (timing["batch"], timing["dim"]) == (batch, dim)]
            ratios = sorted(r[method]["gpu"] / r[base]["gpu"] for r in rounds if {method, base} <= r.keys())
            if ratios:
                return ratios[len(ratios) // 2]
        return None

    return figure


def _peak(method: str, field: str, dim: int, batch: int | None = None) -> Callable[[Run], float | None]:
    """The largest peak of a method over the batches that were measured, or at one of them."""

    def figure(run: Run) -> float | None:
        rows = [
            row
            for stop in run["stops"]
            for row in (stop.get("result") or {}).get("memory", [])
            if isinstance(row, dict)
        ]
        rows = [
            row
            for row in rows
            if (row["method"], row["dim"]) == (method, dim) and row["batch"] == (batch or row["batch"])
        ]
        return max((row[field] for row in rows), default=None)

    return figure


def _head(method: str, base: str | None = None) -> Callable[[Run], float | None]:
    def figure(run: Run) -> float | None:
        found = (_result(run, "head") or {}).get("gpu", {})
        if method not in found or (base and base not in found):
            return None
        return found[method]["median"] / (found[base]["median"] if base else 1)

    return figure


def _head_memory(run: Run) -> float | None:
    peak = (_result(run, "head") or {}).get("memory", {}).get(ALONE)
    gradients = 4 * LOGPS_GPU_SIZE["dim"] * (LOGPS_GPU_SIZE["tokens"] + LOGPS_GPU_SIZE["words"])
    return None if peak is None else peak - gradients


def _step(run: Run) -> float | None:
    ratio = (_result(run, "logo") or {}).get("ratio", {}).get("shared, M = 2")
    return ratio and ratio["median"]


BARS = (
    Bar("InfoNCE bf16, b = 65,536, d = 512", "unit ms", 0.036, 0.028, _seconds(65_536, 512, FUSED), 4 * PAIRS, "infonce"),
    Bar("SigLIP bf16, b = 65,536, d = 512", "unit ms", 0.028, 0.022, _seconds(65_536, 512, SIGMOID), 3 * PAIRS, "siglip"),
    Bar("memory besides inputs and fp32 gradients, b up to 1M", "bytes", 0.7e9, 0.3e9, _peak(FUSED, "besides", 512)),
    Bar("one million pairs, d = 512", "unit ms", 9.5, 7.5, _seconds(1_048_576, 512, FUSED), 4 * PAIRS * 256),
    Bar("InfoNCE, time / inf-cl", ".3f", 1 / 8, 1 / 15, _over(65_536, 512, FUSED, "inf-cl")),
    Bar("margin sweep, T = 8,192, H = 4,096, V = 128,256", "unit ms", 0.052, 0.042, _head(SWEEP), 3 * HEAD, "head"),
    Bar("margin sweep / three bare matmuls", ".2f", 1.25, None, _head(SWEEP, "three bare matmuls")),
    Bar("margin sweep without SFT, memory besides fp32 gradients", "bytes", 2.0**30, None, _head_memory),
    Bar("SigLIP, d = 768, time / siglip-kernel", ".2f", 1.0, None, _over(65_536, 768, SIGMOID, "siglip-kernel")),
    Bar("SigLIP, d = 768, extra peak", "bytes", 0.64e9, None, _peak(SIGMOID, "peak", 768, 65_536)),
    Bar("LOGO step of 8B, shared / concatenated, M = 2", ".2f", 1 / 2.3, None, _step),
)  # fmt: skip
