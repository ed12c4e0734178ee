"""The small stops: what the GPU reaches at all, rings over NCCL, and the kernels of one call.

machine   TFLOP/s of torch.mm by dtype, bytes per second of a copy: what all other figures are measured against
ring      the loss over NCCL with one rank, and with two ranks on one GPU, which NCCL may refuse: then its sentence
profile   the kernels of one call by their time, under torch.profiler
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from minilib.bench import baselines, harness, ring
from minilib.bench import logps_methods as ways
from minilib.bench.device import DTYPES, NAMES, Device, named

COPIED = 2**31  # bytes of the matrix that is copied
TIMES, SHOWN = 5, 12  # samples of a rate; kernels of a profile


def measure(settings: dict[str, Any], output: str, at: Device | None = None) -> dict[str, Any]:
    """Run the part that the settings name; the document has what it found."""
    document = {"benchmark": settings["part"], "settings": settings, "rows": [], "skipped": {}}
    if settings["part"] != "ring":  # its ranks are forked, which a process that has touched the GPU cannot be
        at = at or named(settings["device"])
        document["machine"] = at.describe()
    for found in PARTS[settings["part"]](settings, at):
        document["rows"].append(found)
        harness.finish(document, output)
    return document


def machine(settings: dict[str, Any], at: Device):
    """Rows of what is reached: the rate of a product in each dtype, then of a copy."""
    for dtype in [torch.bfloat16, torch.float16, torch.float32] if at.name == "cuda" else [torch.float32]:
        call, operations = at.product_step(1024, 512, dtype)
        yield {"name": f"torch.mm {NAMES[dtype]}", "dtype": NAMES[dtype], "rate": operations / _median(at, call)}
    source = torch.ones(COPIED if at.name == "cuda" else 2**20, dtype=torch.int8, device=at.name)
    target = torch.empty_like(source)
    bytes_moved = 2 * source.numel()  # read and written
    yield {"name": "copy", "dtype": None, "rate": bytes_moved / _median(at, lambda _: target.copy_(source))}


def rings(settings: dict[str, Any], _: None):
    """A row for one rank and one for two: what `minilib.bench.ring` measures, or the sentence that says why not."""
    device = "cuda" if settings["device"] == "cuda" else "cpu"
    asked = settings | {"device": device, "start": "fork", "alone": True}
    for count in (1, 2):
        name = f"{'NCCL' if device == 'cuda' else 'gloo'}, {count} rank{'s' * (count > 1)}"
        try:
            row = ring.summarise(ring.run_ranks(count, asked), asked)
            del row["raw"]
            yield {"name": name, **row, "held": row["error"] <= baselines.SPLIT, "complaint": ""}
        except RuntimeError as failure:
            yield {"name": name, "ranks": count, "held": None, "complaint": f"{harness.first_line(failure)}."}


def kernels(settings: dict[str, Any], at: Device):
    """Rows of the kernels in which one call spends its time, the slowest first."""
    call = STEPS[settings["of"]](settings, at.name)
    call()  # compiles and tunes
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (at.name == "cuda")
    with profile(activities=activities) as found:
        call()
        if at.name == "cuda":
            torch.cuda.synchronize()
    field, kind = (
        ("self_device_time_total", DeviceType.CUDA) if at.name == "cuda" else ("self_cpu_time_total", DeviceType.CPU)
    )
    # An operation of torch has the time of its kernels, too: those alone are counted on a GPU.
    events = [event for event in found.key_averages() if event.device_type == kind]
    events.sort(key=lambda event: -getattr(event, field))
    total = sum(getattr(event, field) for event in events) or 1
    for event in events[:SHOWN]:
        spent = getattr(event, field)
        yield {"name": event.key[:80], "calls": event.count, "seconds": spent / 1e6, "share": spent / total}


def _contrastive(step: Callable, settings: dict[str, Any], device: str) -> Callable[[], Any]:
    options = {"dtype": DTYPES[settings["half"]], "device": device, "seed": settings["seed"]}
    inputs = baselines.make_inputs(settings["batch"], settings["dim"], 14.3, **options)
    return lambda: step(baselines.fresh(inputs))


def _head(settings: dict[str, Any], device: str) -> Callable[[], Any]:
    sizes = {"tokens": settings["tokens"], "dim": settings["width"], "words": settings["words"]}
    options = {"dtype": DTYPES[settings["half"]], "device": device, "seed": settings["seed"]}
    inputs = ways.make_inputs(**sizes, **options)
    sweep = next(method for method in ways.ours("cuda") if method.name == "margin sweep")
    return lambda: sweep.step(ways.fresh(inputs, frozen=False))


def _median(at: Device, call: Callable[[Any], Any]) -> float:
    call(None)
    return statistics.median(at.clock(lambda: call(None)).spent for _ in range(TIMES))


STEPS = {
    "infonce": partial(_contrastive, baselines.clip_step("fused")),
    "siglip": partial(_contrastive, baselines.siglip_step("fused")),
    "head": _head,
}
PARTS = {"machine": machine, "ring": rings, "profile": kernels}
