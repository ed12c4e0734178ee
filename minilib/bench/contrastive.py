"""The contrastive losses side by side: ours, torch's, open_clip's, sentence-transformers', the authors', in one run.

A fresh process compares every method with fp64 (`correctness`), times interleaved rounds (`contrastive_cells`),
measures peak extra memory, forms rings of processes (`ring`) and judges the targets. The document, a plain dict with
every raw sample, is written after each step, so that Ctrl-C leaves what was measured so far. With a CUDA GPU everything
is measured there, in less than ten minutes; else on the CPU.

What the figures mean is taught in notebooks/04_tile_the_loss.ipynb.
"""

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from minilib.bench import baselines, correctness, harness, report, ring, targets
from minilib.bench import baselines_peers as peers
from minilib.bench import contrastive_cells as timing
from minilib.bench.device import Device, available_bytes, chosen, named
from minilib.bench.harness import Method
from minilib.teaching.memory import measure_peak

BATCHES = [4096, 8192, 16384]
GATE_BATCH = {"cpu": 1024, "cuda": 4096}
MEMORY_BATCHES, QUICK_MEMORY_BATCHES = [8192, 16384, 32768], [512]
MEMORY_METHODS = ("dense", "default", "tiled", "open_clip ClipLoss")
LARGEST_SQUARE = 16_384  # beyond it, only the memory of methods without a b x b matrix is measured
RING = {"ring_batch": 8192, "ring_gate_batch": 512, "ring_steps": 3}
QUICK = {"batches": [256, 512], "rounds": 2, "gate_batch": 256}
QUICK |= {"ring_batch": 512, "ring_gate_batch": 128, "ring_steps": 2}
NO_GPU = "they need a CUDA GPU: Triton's interpreter is for correctness, not for speed."

_SETUP = """
from minilib.bench import baselines, baselines_peers as peers
known = baselines.ours() + peers.available(({name!r},))[0]
step = next(method.step for method in known if method.name == {name!r})
step(baselines.make_inputs({warm}, {dim}, {scale}))
inputs = baselines.make_inputs({batch}, {dim}, {scale})
"""


def bench_contrastive(
    batches: Sequence[int] | None = None, dim: int = 512, rounds: int | None = None, scale: float = 14.3,
    threads: int | None = None, device: str = "auto", ranks: Sequence[int] = (2, 4), memory: bool = True,
    others: bool = True, quick: bool = False, output: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure time, memory and exactness of contrastive losses side by side; return the document written as JSON.

    Args:
        batches: batch sizes to time; by default 4,096 to 16,384 on a CPU, 16,384 to 1,048,576 and several widths on a
            GPU.
        dim: width of the features, and of the comparison with fp64.
        rounds: timed calls of each method at each batch, after one more that warms it up; by default 5 on a CPU, and
            on a GPU as many as its time allows, up to 20.
        scale: logit scale of the timed calls.
        threads: threads to compute with; by default one for each usable core.
        device: "cpu", "cuda", or "auto" for the GPU if there is one.
        ranks: sizes of the rings of processes to compare with one process; empty for none.
        memory: whether to measure peak extra memory too; on a CPU, in processes of their own.
        others: whether to measure torch.compile, torch's own loss and other libraries as well as ours.
        quick: tiny batches and two rounds, to see in a minute that everything runs; its figures judge nothing.
        output: JSON file to write, its folder is made; by default runs/bench/contrastive.json, on a GPU
            contrastive_cuda.json.

    Raises:
        ValueError: one sentence, when an argument does not fit. RuntimeError: when the measuring process broke.
    """
    device = chosen(device)
    gpu = device == "cuda"
    settings = {"batches": list(batches) if batches is not None else None if gpu else BATCHES, "dim": dim}
    settings |= {"rounds": (timing.GPU_ROUNDS if gpu else 5) if rounds is None else rounds, "scale": scale}
    settings |= {"threads": harness.usable_cores() if threads is None else threads, "others": others}
    settings |= {"device": device, "seconds": timing.GPU_SECONDS if gpu else None, "ranks": list(ranks)}
    settings |= {"gate_batch": GATE_BATCH[device], **RING} | (QUICK if quick else {})
    settings["memory_batches"] = (QUICK_MEMORY_BATCHES if quick else MEMORY_BATCHES) if memory else []
    _validate(settings)
    output = Path(output or f"runs/bench/contrastive{'_cuda' * gpu}.json")
    return harness.run_apart("minilib.bench.contrastive", settings, output)


def measure(settings: dict[str, Any], output: str | None = None, at: Device | None = None) -> dict[str, Any]:
    """Run every step in this process; `settings` as `bench_contrastive` makes them, `at` is where, by default there."""
    budget, at = timing.Budget(settings["seconds"]), at or named(settings["device"])
    torch.set_num_threads(settings["threads"])
    document: dict[str, Any] = {"benchmark": "contrastive", "complete": False, "settings": settings, "unit": at.unit}
    document |= {"machine": at.describe(), "skipped": {}}
    document |= {"equality": [], "timings": [], "memory": [], "ring": [], "bars": []}

    def save(section: str = "") -> None:
        harness.finish(document, output, section and f"\n{section}")

    save(report.section("machine", document))
    try:
        found = _judge(document, at)
        save(report.section("equality", document, report.plain))
        save(report.section("skipped", document))
        _time(document, found, at, budget, save)
        _measure_memory(document, found, at, save)
        save(report.section("memory", document, report.plain))
        _measure_ring(document, save)
        save(report.section("ring", document, report.plain))
        document["complete"] = True
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not lose the file
        save("Interrupted: what was measured so far is kept.")
    document["bars"] = targets.contrastive(document)
    save(f"{report.section('contrastive_bars', document, report.plain)}\n\nWritten to {output}")
    return document


def meant_for_memory(found: list[Method], batch: int) -> list[Method]:  # no matrix out of proportion
    return [m for m in found if m.name in MEMORY_METHODS and (batch <= LARGEST_SQUARE or m.matrices == 0)]


def peak_row(method: Method, batch: int, dim: int, scale: float, threads: int) -> dict[str, Any]:
    """Extra bytes of one call at its highest point, in a fresh process; the features exist before and do not count.

    RuntimeError of one sentence when the method would not fit into memory, or when its process failed.
    """
    reason = timing.large(method, batch, dim, available_bytes())
    if reason:
        raise RuntimeError(reason.rstrip("."))
    setup = _SETUP.format(name=method.name, batch=batch, dim=dim, scale=scale, warm=min(64, batch))
    return timing.memory_row(method, batch, dim, measure_peak(setup, "step(inputs)", threads=threads))


def _validate(settings: dict[str, Any]) -> None:
    for name, least in (("batches", 1), ("ranks", 2)):
        smallest = min(settings[name] or [least])
        if smallest < least:
            raise ValueError(f"{name} holds {smallest}: give whole numbers of at least {least}.")
    if settings["batches"] == []:
        raise ValueError("batches is empty: give at least one batch size, such as 4096.")
    harness.validate_at_least_one({name: settings[name] for name in ("dim", "rounds", "threads")})
    if not settings["scale"] > 0:
        raise ValueError(f"scale is {settings['scale']}: give a positive logit scale, such as 14.3.")


def _judge(document: dict[str, Any], at: Device) -> list[Method]:
    """The methods that run here and are right; the document tells of the others."""
    settings, right = document["settings"], []
    gpu = at.unit == "gpu"
    ours, skipped = (baselines.gpu_methods(), {}) if gpu else (baselines.ours(), {"fused methods": NO_GPU})
    others, why = peers.available(device="cuda" if gpu else "cpu") if settings["others"] else ([], {})
    found = sorted([*ours, *others], key=lambda method: method.loss)  # InfoNCE before SigLIP
    found, too_narrow = harness.split(found, lambda method: timing.narrow(method, settings["dim"]))
    document["skipped"] = skipped | why | too_narrow
    for method in tqdm(found, desc="equality", unit="method", leave=False, disable=None):
        verdict = correctness.judge(method, settings["gate_batch"], settings["dim"], at.name)
        document["equality"].append(verdict._asdict())
        if verdict.equal:
            right.append(method)
        else:
            document["skipped"][method.name] = "its loss or gradients differ from fp64, so it was not timed."
    return right


def _time(document: dict[str, Any], found: list[Method], at: Device, budget: timing.Budget, save) -> None:
    todo = timing.cells(document["settings"])
    for number, cell in enumerate(todo):
        reason = budget.begin(cell, todo[number + 1 :])
        if reason:
            document["skipped"][f"b = {cell.batch:,}, d = {cell.dim}"] = reason
            save(f"Skipped: b = {cell.batch:,}, d = {cell.dim}: {reason}")
            continue
        before, rows = list(document["timings"]), list(document["memory"])
        for result in timing.time_cell(found, cell, document["settings"], at, budget):
            # Each round's result takes the place of the one before, so that the file is complete up to here.
            document["timings"] = [*before, result]
            document["memory"] = [*rows, *timing.peaks(result, found)]
            save()
        if len(document["timings"]) > len(before):
            save(report.section("timing", document, report.plain, -1))


def _measure_memory(document: dict[str, Any], found: list[Method], at: Device, save) -> None:
    settings = document["settings"]
    batches = settings["memory_batches"] if at.unit == "cpu" else []
    wanted = [(batch, method) for batch in batches for method in meant_for_memory(found, batch)]
    for batch, method in tqdm(wanted, desc="memory", unit="process", leave=False, disable=None):
        try:
            row = peak_row(method, batch, settings["dim"], settings["scale"], settings["threads"])
            document["memory"].append(row)
        except (RuntimeError, subprocess.TimeoutExpired) as error:  # the other methods can still be measured
            document["skipped"][f"memory of {method.name}, b = {batch:,}"] = f"{harness.first_line(error)}."
        save()


def _measure_ring(document: dict[str, Any], save) -> None:
    settings = document["settings"]
    counts, reason = ring.possible(settings["ranks"], settings["device"])
    try:
        for row in ring.measure_ring(counts, settings):
            document["ring"].append(row)
            save()
    except RuntimeError as error:
        reason = f"{harness.first_line(error)}."
    if reason:
        document["skipped"]["ring"] = reason
        save(f"Skipped: ring: {reason}")
