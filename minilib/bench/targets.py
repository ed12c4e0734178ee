"""The targets: what is promised, next to what a run measured, and whether it held.

A target is "not measured" when the run left its batch, its size or its peer out. Ratios and times are medians over
rounds, ratios taken within a round; memory is the peak next to what lay there before, features or weights.

    contrastive   ratios and memory at d = 512 on two CPU cores; seconds, memory and an error on one H200
    logps         ratios of time and memory to the dense way; on an H200 seconds of the margin sweep, whose three
                  matmuls take 10.9 ms each at the rate that it reached (788 TFLOP/s), and what it is to bare matmuls
    prefix        the cached prompt / full sequences as one batch
    step          shared / concatenated at M = 2, peak at M = 8 / at M = 1; for 8b what an H200 leaves free
"""

import math
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import yaml

DIM = 512
FASTEST = "fastest peer"


class Target(NamedTuple):
    """A figure of `method` that is at most `limit`; those of the contrastive losses stand in `targets.yaml`."""

    kind: str  # "ratio", "bytes", "seconds" or "error"
    method: str
    limit: float
    batch: int | None = None
    base: str | None = None
    part: str | None = None
    loss: str = "clip"
    stretch: bool = False
    dim: int = DIM
    best: float | None = None  # the stretch target of the same figure
    floor: int | None = None  # the fewest matmuls
    stop: str | None = None  # what `gpu` profiles where this figure is furthest from its floor

    @property
    def claim(self) -> str:
        """The target in words."""
        words = {
            "ratio": f"{self.method} / {self.base}{' (stretch)' * self.stretch}",
            "bytes": f"{self.method}, extra memory{' besides the gradients' * (self.part == 'besides')}",
            "seconds": f"{self.method}, forward and backward",
            "error": f"{self.method}: error against fp64, scale 14.3 and 100",
        }[self.kind]
        size = f"b = {self.batch:,}{f', d = {self.dim}' if self.dim != DIM else ''}: " if self.batch else ""
        return size + words


_LISTED = yaml.safe_load(Path(__file__).with_name("targets.yaml").read_text(encoding="utf-8"))
CONTRASTIVE = {unit: [Target(**fields) for fields in listed] for unit, listed in _LISTED.items()}
FROZEN = "dense, frozen head"
LOGPS = {("tiled", "dense"): 0.90, ("margin sweep", "dense"): 0.75, ("tiled, frozen head", FROZEN): 0.75}
LOGPS_MEMORY = 1 / 15  # of dense, for every method of ours
LOGPS_GPU_SIZE = {"tokens": 8192, "dim": 4096, "words": 128_256}
LOGPS_GPU = {"limit": 0.052, "best": 0.042, "floor": 3}  # seconds of the margin sweep; three matmuls take 0.033
LOGPS_BARE, LOGPS_BYTES = 1.25, 2.0**30  # its time to that of bare matmuls; its memory besides fp32 gradients
PREFIX = 0.50


def judged(claim: str, limit: float, measured: float | None, least: bool = False, **more: Any) -> dict[str, Any]:
    """One target as a document keeps it: `limit` is the most that may be measured, or the least."""
    held = None if measured is None else measured >= limit if least else measured <= limit
    return {"claim": claim, **more, "limit": limit, "measured": measured, "held": held}


def contrastive(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Every target of this device with its limit, the measured figure (or None) and whether it held (or None)."""
    unit, found = document.get("unit", "cpu"), []
    for target in CONTRASTIVE[unit]:
        fields = {name: value for name, value in target._asdict().items() if value is not None}
        figure, claim = _measured(document, target, unit), target.claim
        if target.base == FASTEST and figure is not None:  # which one that is, only the run knows
            fields["base"] = _fastest(_timing(document, target.batch))
            claim = claim.replace(FASTEST, f"{FASTEST}, {fields['base']}")
        found.append(judged(claim, measured=figure, **fields))
    return found


def logps(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The targets of the log-probabilities: ratios on a CPU, seconds at one size on a GPU."""
    if document.get("unit") == "gpu":
        return _logps_gpu(document)
    found = []
    for (name, base), limit in LOGPS.items():
        mine, dense = (document["memory"].get(way) for way in (name, base))
        found.append(judged(f"{name} / {base}, time", limit, _median(document["ratio"], name)))
        found.append(judged(f"{name} / {base}, extra memory", LOGPS_MEMORY, mine / dense if mine and dense else None))
    return found


def _logps_gpu(document: dict[str, Any]) -> list[dict[str, Any]]:
    at_size, found = document["settings"].items() >= LOGPS_GPU_SIZE.items(), document["gpu"]
    spent, bare = (_median(found, name) if at_size else None for name in ("margin sweep", "three bare matmuls"))
    peak = document.get("memory", {}).get("margin sweep, no SFT term") if at_size else None
    besides = peak and peak - 4 * LOGPS_GPU_SIZE["dim"] * (LOGPS_GPU_SIZE["tokens"] + LOGPS_GPU_SIZE["words"])
    sweep, ratio = "margin sweep, T = 8,192, H = 4,096, V = 128,256", spent / bare if spent and bare else None
    return [
        judged(sweep, measured=spent, kind="seconds", stop="head", **LOGPS_GPU),
        judged("margin sweep / three bare matmuls, time", LOGPS_BARE, ratio, kind="ratio"),
        judged("margin sweep without SFT, memory besides fp32 gradients", LOGPS_BYTES, besides, kind="bytes"),
    ]


def step(document: dict[str, Any], at_size: bool) -> list[dict[str, Any]]:
    """The targets of a training step of this model; `at_size` says whether it ran at the size that they are set for."""
    peak, spare = (document.get(name, {}) if at_size else {} for name in ("peak", "spare"))
    ratio = _median(document["ratio"], "shared, M = 2") if at_size else None
    if document["settings"]["model"] == "tiny":
        one, eight = (peak.get(f"shared, M = {count}") for count in (1, 8))
        growth = eight / one if one and eight else None
        return [
            judged("shared / concatenated, M = 2, time", 0.5, ratio, sense="at most"),
            judged("shared, extra peak at M = 8 / at M = 1", 1.5, growth, sense="at most"),
        ]
    if document["settings"]["model"] == "8b":
        free, most = spare.get("shared, M = 8"), {"sense": "at least", "least": True}
        return [
            judged("concatenated / shared, M = 2, time", 2.3, ratio and 1 / ratio, **most),
            judged("shared, M = 8, GB left free", 30.0, None if free is None else free / 1e9, **most),
        ]
    return []


def _measured(document: dict[str, Any], target: Target, unit: str) -> float | None:
    """The figure that `target` is about, or None where the document has none."""
    if target.kind == "error":
        errors = [v["errors"].values() for v in document["equality"] if v["method"] == target.method]
        # max() overlooks NaN, the error of a method that could not be run.
        return max((math.inf if math.isnan(e) else e for e in errors[0]), default=None) if errors else None
    if target.kind == "bytes":
        wanted = (target.method, target.batch, target.dim)
        rows = [row for row in document["memory"] if (row["method"], row["batch"], row["dim"]) == wanted]
        return rows[0].get(target.part) if rows else None
    timing = _timing(document, target.batch, target.dim, target.method, target.base if unit == "gpu" else None)
    row = timing["summary"].get(target.method, {})
    if target.base == FASTEST:
        base = _fastest(timing)
        both = [r for r in timing.get("rounds", ()) if base in r and target.method in r]
        return statistics.median(r[target.method][unit] / r[base][unit] for r in both) if both else None
    return _median(row, unit) if target.kind == "seconds" else _median(row.get("ratios", {}), target.base)


def _fastest(timing: dict[str, Any]) -> str | None:
    """The fastest method of InfoNCE that is not ours; None for a run without the compiled loss, mostly the fastest."""
    rows = timing["summary"]
    peers = [n for n in rows if rows[n].get("dense") == "dense" and not n.startswith(("default", "tiled", "fused"))]
    return min(peers, key=lambda name: rows[name]["cpu"]["median"]) if "compiled dense" in peers else None


def _timing(document: dict[str, Any], batch: int | None, dim: int = DIM, *names: str | None) -> dict[str, Any]:
    """The timing of this size, on a GPU the one in which all these methods took part, where there are several."""
    for timing in document["timings"]:
        size = timing["batch"], timing.get("dim", document["settings"].get("dim"))
        if size == (batch, dim) and (document.get("unit") != "gpu" or {*names} - {None} <= timing["summary"].keys()):
            return timing
    return {"summary": {}}


def _median(found: dict[str, Any], name: str | None) -> float | None:
    return found[name]["median"] if found.get(name) else None
