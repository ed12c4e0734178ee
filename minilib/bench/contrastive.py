"""The contrastive losses side by side: ours, torch's, open_clip's, sentence-transformers', the authors', in one run.

A fresh process compares every method with fp64 (`correctness`), times interleaved rounds (`contrastive_cells`),
measures peak extra memory, forms rings of processes (`ring`) and judges the targets. The document, a plain dict with
every raw sample, is written after each step, so that Ctrl-C leaves what was measured so far. With a CUDA GPU everything
is measured there, else on the CPU; `gpu` runs it there in parts, each as long as its time allows.

What the figures mean is taught in notebooks/04_tile_the_loss.ipynb.
"""

import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minilib.bench import baselines, correctness, harness, report, ring, targets
from minilib.bench import baselines_peers as peers
from minilib.bench import contrastive_cells as timing
from minilib.bench.device import DTYPES, Device, available_bytes, chosen, named
from minilib.bench.harness import Method
from minilib.teaching.memory import measure_peak

BATCHES = {"cpu": [4096, 8192, 16384], "cuda": [16_384, 65_536]}
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
        batches: batch sizes to time; by default 4,096 to 16,384 on a CPU, 16,384 and 65,536 on a GPU.
        dim: width of the features, and of the comparison with fp64.
        rounds: timed calls of each method at each batch, after one more that warms it up; by default 5.
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
    gpu = (device := chosen(device)) == "cuda"
    defaults = {"batches": BATCHES[device], "rounds": 5, "device": device, "ranks": list(ranks)}
    defaults |= {"gate_batch": GATE_BATCH[device], "others": others, **RING}
    asked = {"batches": None if batches is None else list(batches), "dim": dim, "rounds": rounds, "scale": scale}
    settings = harness.settings_of(defaults, asked | {"threads": threads}, QUICK if quick else None)
    settings["memory_batches"] = (QUICK_MEMORY_BATCHES if quick else MEMORY_BATCHES) if memory else []
    _validate(settings)
    output = Path(output or f"runs/bench/contrastive{'_cuda' * gpu}.json")
    return harness.run_apart("minilib.bench.contrastive", settings, output)


def measure(settings: dict[str, Any], output: str | None = None, at: Device | None = None) -> dict[str, Any]:
    """Run every step in this process; `settings` as `bench_contrastive` makes them, `at` is where, by default there."""
    at = at or named(settings["device"])
    document = {"complete": False} | harness.opened("contrastive", settings, at)
    document |= {"equality": [], "timings": [], "memory": [], "ring": [], "bars": []}
    try:
        for section in _sections(document, at):
            harness.finish(document, output, section and f"\n{section}")
        document["complete"] = True
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not lose the file
        harness.finish(document, output, "\nInterrupted: what was measured so far is kept.")
    document["bars"] = targets.contrastive(document)
    section = report.section("contrastive_bars", document, report.plain)
    return harness.finish(document, output, f"\n{section}\n\nWritten to {output}")


def _sections(document: dict[str, Any], at: Device) -> Iterator[str]:
    """Measure step by step; yields what there is to print whenever the document has grown, and "" between."""
    yield report.section("machine", document)
    found = _judge(document, at)
    yield report.section("equality", document, report.plain)
    yield report.section("skipped", document)
    yield from _time(document, found, at)
    yield from _measure_memory(document, found, at)
    yield report.section("memory", document, report.plain)
    yield from _measure_ring(document)
    yield report.section("ring", document, report.plain)


def meant_for_memory(found: list[Method], batch: int) -> list[Method]:  # no matrix out of proportion
    return [m for m in found if m.name in MEMORY_METHODS and (batch <= LARGEST_SQUARE or m.matrices == 0)]


def peak_row(method: Method, batch: int, dim: int, scale: float, threads: int) -> dict[str, Any]:
    """Extra bytes of one call at its highest point, in a fresh process; the features exist before and do not count.

    RuntimeError of one sentence when the method would not fit into memory, or when its process failed.
    """
    if reason := timing.large(method, batch, dim, available_bytes()):
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
    harness.validate_at_least_one(settings, "dim", "rounds", "threads")
    if not settings["scale"] > 0:
        raise ValueError(f"scale is {settings['scale']}: give a positive logit scale, such as 14.3.")


def _judge(document: dict[str, Any], at: Device) -> list[Method]:
    """The methods that run here and are right; the document tells of the others."""
    settings, skipped, gpu = document["settings"], document["skipped"], at.unit == "gpu"
    half = DTYPES[settings.get("half", "bf16")]
    found = baselines.gpu_methods(half) if gpu else baselines.ours()
    skipped |= {} if gpu else {"fused methods": NO_GPU}
    if settings["others"]:
        others, missing = peers.available(settings.get("names"), "cuda" if gpu else "cpu")
        found, _ = [*found, *others], skipped.update(missing)
    found = [method for method in found if method.name in settings.get("names", (method.name,))]
    found, narrow = harness.split(found, lambda method: timing.narrow(method, settings["dim"]))
    skipped |= narrow
    found.sort(key=lambda method: method.loss)  # InfoNCE before SigLIP
    size = {"batch": settings["gate_batch"], "dim": settings["dim"], "seed": settings.get("seed", 0)}
    free = [method for method in found if method.name in settings.get("ungated", ())]  # compiled from what is judged
    judged = [method for method in found if method not in free]
    bar = tqdm(judged, desc="equality", unit="method", leave=False, disable=None)
    verdicts = [correctness.judge(method, device=at.name, **size) for method in bar]
    document["equality"] = [verdict._asdict() for verdict in verdicts]
    wrong = "its loss or gradients differ from fp64, so it was not timed."
    skipped |= {verdict.method: wrong for verdict in verdicts if not verdict.equal}
    return [method for method, verdict in zip(judged, verdicts) if verdict.equal] + free


def _time(document: dict[str, Any], found: list[Method], at: Device) -> Iterator[str]:
    for cell in timing.cells(document["settings"]):
        before, rows = document["timings"], document["memory"]
        for result in timing.time_cell(found, cell, document["settings"], at):
            # Each round's result takes the place of the one before, so that the file is complete up to here.
            document |= {"timings": [*before, result], "memory": [*rows, *timing.peaks(result, found)]}
            yield ""
        if document["timings"] is not before:
            yield report.section("timing", document, report.plain, -1)


def _measure_memory(document: dict[str, Any], found: list[Method], at: Device) -> Iterator[str]:
    settings = document["settings"]
    batches = settings["memory_batches"] if at.unit == "cpu" else []
    wanted = [(batch, method) for batch in batches for method in meant_for_memory(found, batch)]
    for batch, method in tqdm(wanted, desc="memory", unit="process", leave=False, disable=None):
        try:
            row = peak_row(method, batch, settings["dim"], settings["scale"], settings["threads"])
            document["memory"].append(row)
        except (RuntimeError, subprocess.TimeoutExpired) as error:  # the other methods can still be measured
            _skip(document, f"memory of {method.name}, b = {batch:,}", f"{harness.first_line(error)}.")
        yield ""


def _measure_ring(document: dict[str, Any]) -> Iterator[str]:
    settings = document["settings"]
    counts, reason = ring.possible(settings["ranks"], settings["device"])
    try:
        for row in ring.measure_ring(counts, settings):
            document["ring"].append(row)
            yield ""
    except RuntimeError as error:
        reason = f"{harness.first_line(error)}."
    if reason:
        yield _skip(document, "ring", reason)


def _skip(document: dict[str, Any], name: str, reason: str) -> str:
    document["skipped"][name] = reason
    return f"Skipped: {name}: {reason}"
