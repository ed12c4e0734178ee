"""The gate: every fused kernel against fp64 on this GPU, in fp32, fp16 and bf16, at three shapes, on fresh numbers.

    error = largest relative error of the loss and of each gradient, by norm; memory holds NaN before (`correctness`)

The families go through all kernels: InfoNCE (`shifted_sums`, `softmax_grads`), InfoNCE with logits too large for a
shift (`pair_sums`, `softmax_grads` with pairs), SigLIP (`sigmoid_visit`), log-probabilities (`row_sums`, `row_grads`).
Every tile that the tuner may choose is compared in bf16, too: one that the GPU cannot hold is no fault, a wrong one is.

On a GPU each dtype and family, and each tile, has a process of its own: kernels are compiled on all cores, and one that
breaks the GPU's context breaks nothing else. What is compiled stays in Triton's cache for the stops that follow.
"""

import json
import math
import multiprocessing
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from minilib.bench import baselines, correctness, harness, logps
from minilib.bench import logps_methods as ways
from minilib.bench.device import DTYPES, Device, named
from minilib.bench.harness import Method

LARGE = {"scale 200": (200.0, 0.1)}  # beyond every shared shift; rounding doubles with the logits
SHAPES = ((4096, 512), (1000, 200), (334, 768))  # pairs and width: whole tiles, ragged ones, a wide one
HEADS = ((1024, 512, 8192), (300, 200, 1111), (96, 768, 5000))  # tokens, width, entries
DRY_SHAPES, DRY_HEADS = ((64, 32), (50, 20), (17, 48)), ((32, 32, 96), (30, 20, 70), (16, 48, 130))
SKIPPED = ("OutOfResources", "PTXASError", "CompileTimeAssertionFailure")  # errors at which Triton's tuner goes on
ALLOWED = {"fp32": baselines.SPLIT, "fp16": baselines.ROUNDED, "bf16": baselines.ROUNDED}


class Job(NamedTuple):
    """What one process compares: a family in one dtype, with the usual tiles or with one of the tuner's."""

    family: str
    dtype: str
    tile: tuple | None = None


def measure(settings: dict[str, Any], output: str, at: Device | None = None) -> dict[str, Any]:
    """Compare everything; the document has a row for every family, dtype and shape, and a verdict for every dtype."""
    # A process that has touched the GPU cannot be forked, so this one does not where others do its work.
    device = "cuda" if settings["apart"] else (at or named(settings["device"])).name
    document = {"benchmark": "gate", "settings": settings, "rows": [], "skipped": {}, "held": {}}
    dtypes = ["fp32", "fp16", *["bf16"] * settings["apart"]]
    jobs = [Job(family, dtype) for dtype in reversed(dtypes) for family in FAMILIES]
    if settings["apart"]:
        jobs += [Job(family, "bf16", tile) for tile in _tuned() for family in ("InfoNCE", "SigLIP")]
    else:
        document["skipped"]["bf16"] = "Triton's interpreter cannot multiply it."
    here = partial(compare, settings, device)
    for rows in _apart(jobs, here, output) if settings["apart"] else map(here, jobs):
        document["rows"] += rows
        harness.finish(document, output)
    document["held"] = {name: held(document["rows"], name) for name in dtypes}
    return harness.finish(document, output)


def held(rows: list[dict[str, Any]], dtype: str) -> bool:
    """Whether every row of this dtype is right; a tile that the tuner cannot compile or launch is one that it skips."""
    mine = [row for row in rows if row["dtype"] == dtype]
    skipped = [bool(row["tile"]) and any(name in row["complaint"] for name in SKIPPED) for row in mine]
    return bool(mine) and all(row["held"] or skip for row, skip in zip(mine, skipped))


def compare(settings: dict[str, Any], device: str, job: Job) -> list[dict[str, Any]]:
    """The rows of one job: an error for each shape, None where it could not be run."""
    pair = (HEADS, DRY_HEADS) if job.family == "log-probabilities" else (SHAPES, DRY_SHAPES)
    shapes = pair[0 if settings["apart"] else 1]
    if job.tile:
        _take_tile(job.tile)
    rows, allowed = [], ALLOWED[job.dtype] * (2 if job.family == "InfoNCE, large logits" else 1)
    for number, shape in enumerate(shapes[:1] if job.tile else shapes):
        seed, complaint = settings["seed"] + 100 * number, ""
        try:
            error = FAMILIES[job.family](DTYPES[job.dtype], shape, device, seed)
        except Exception as failure:  # a kernel may fail in any way; the others are compared
            error, complaint = None, harness.describe(failure)
        row = {"family": job.family, "dtype": job.dtype, "shape": shape, "tile": job.tile, "error": error}
        right = error is not None and error <= allowed  # NaN is within no tolerance
        rows.append(row | {"allowed": allowed, "held": right, "complaint": complaint})
    return rows


def _apart(jobs: list[Job], here: Callable[[Job], list], output: str) -> Iterator[list[dict[str, Any]]]:
    """The rows of every job, each compared in a process of its own, all of them at once."""
    context, started = multiprocessing.get_context("fork"), []
    for number, job in enumerate(jobs):
        file = Path(f"{output}.{number}")
        process = context.Process(target=_write, args=(here, job, file))
        process.start()
        started.append((job, file, process))
    for job, file, process in started:
        process.join()
        lost = {"family": job.family, "dtype": job.dtype, "shape": None, "tile": job.tile, "error": None, "held": False}
        complaint = f"its process ended with status {process.exitcode}"
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        yield [lost | {"allowed": None, "complaint": complaint}] if found is None else found
        file.unlink(missing_ok=True)


def _write(here: Callable[[Job], list], job: Job, file: Path) -> None:
    file.write_text(json.dumps(here(job)), encoding="utf-8")


def _pairs(loss: str, cases: dict, dtype: torch.dtype, shape: tuple[int, int], device: str, seed: int) -> float:
    step = {"clip": baselines.clip_step, "siglip": baselines.siglip_step}[loss]("fused")
    method = Method(loss, step, 4, 0, loss=loss, dtype=dtype)
    verdict = correctness.judge(method, *shape, device=device, seed=seed, cases=cases)
    if verdict.complaint:
        raise RuntimeError(verdict.complaint)
    return max(math.inf if math.isnan(error) else error for error in verdict.errors.values())


def _head(dtype: torch.dtype, shape: tuple[int, int, int], device: str, seed: int) -> float:
    sizes = dict(zip(("tokens", "dim", "words"), shape))
    fused = [method for method in ways.ours("cuda") if method.name.startswith("fused")]  # trained, and frozen
    return max(logps.error(method, dtype, device, seed, **sizes) for method in fused)


def _tuned() -> list[tuple]:
    from minilib.kernels.triton_launch import TUNED

    return TUNED


def _take_tile(tile: tuple) -> None:
    """Every kernel of this process takes one tile, as if the tuner had chosen it."""
    from minilib.kernels import triton_launch, triton_tiles

    options = triton_launch.config(*tile).all_kwargs()
    triton_launch.choose = lambda name, itemsize, logits: (getattr(triton_tiles, name), options)


FAMILIES = {
    "InfoNCE": partial(_pairs, "clip", correctness.CASES),
    "InfoNCE, large logits": partial(_pairs, "clip", LARGE),
    "SigLIP": partial(_pairs, "siglip", correctness.CASES),
    "log-probabilities": _head,
}
