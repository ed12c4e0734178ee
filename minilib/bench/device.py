"""Where a run measures: a CPU or a GPU, its clock, its free memory, its rate of matmuls, and all of it in words.

    spent   on a GPU from the event before the call to the event after it, both on the stream that the call works on
    peak    highest allocation during the call - allocation before it: the features exist before, the gradients do not
    rate    torch.mm: on a CPU on tiles that stay in cache, on a GPU of `SIDE` x `SIDE` matrices in the features' dtype

Before each call on a GPU a buffer much larger than the L2 cache is overwritten, so that no method finds its inputs
there. fp32 matrices are multiplied in fp32, not TF32. The device "dry" is the CPU with a GPU's methods and units: a run
there shows that everything is reached, and its figures mean nothing.
"""

import platform
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minilib.bench import harness
from minilib.bench.harness import Clock, Sample
from minilib.kernels.contrastive_tiled import TILE_COLS, TILE_ROWS

try:
    import psutil
except ModuleNotFoundError:  # a machine with a GPU may have little but torch
    psutil = None

LIBRARIES = ("torch", "numpy", "open_clip_torch", "sentence-transformers", "transformers", "triton", "inf-cl")
LIBRARIES += ("peft", "trl", "liger-kernel", "cut-cross-entropy", "siglip-kernel")
MOST_TILES = 256  # about a CPU second of matmuls at d = 512
FLUSH_BYTES = 256 * 2**20  # five times the L2 cache of an H200
SIDE = 8192
GPU_OPERATIONS = 2 * SIDE**3
NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
DTYPES = {name: dtype for dtype, name in NAMES.items()}


class Device(NamedTuple):
    """A device, its clock, and what it can hold and reach."""

    name: str  # as torch names it
    unit: str  # what the clock counts: "cpu" for CPU seconds, "gpu" for seconds of the GPU
    clock: Clock
    free_bytes: Callable[[], int]
    product_step: Callable[[int, int, torch.dtype], tuple[Callable[[Any], None], int]]
    gpu: dict[str, Any] | None = None  # the GPU in words

    def describe(self) -> dict[str, Any]:
        return describe() | ({"gpu": self.gpu} if self.gpu else {})


def chosen(device: str) -> str:
    """The device that "auto" stands for; ValueError of one sentence for a device that is not there."""
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {device!r}: choose one of 'auto', 'cpu', 'cuda'.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda' and torch finds no CUDA GPU here: choose 'cpu', or 'auto'.")
    found = "cuda" if torch.cuda.is_available() else "cpu"
    return found if device == "auto" else device


def named(device: str) -> Device:
    """This machine's CPU, its current CUDA device, or for "dry" the CPU in a GPU's place."""
    if device == "cpu":
        return Device("cpu", "cpu", harness.clock, available_bytes, product_step)
    if device == "dry":
        words = {"name": "none, a dry run", "memory_bytes": 0, "capability": "0.0", "multiprocessors": 0, "cuda": None}
        return Device(
            "cpu", "gpu", lambda call: harness.clock(call)._replace(peak=0), available_bytes, product_step, words
        )
    gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
    words = {"name": gpu.name, "memory_bytes": gpu.total_memory, "capability": f"{gpu.major}.{gpu.minor}"}
    words |= {"multiprocessors": gpu.multi_processor_count, "cuda": torch.version.cuda}
    return Device("cuda", "gpu", _gpu_clock, _gpu_free_bytes, _gpu_product_step, words)


def describe() -> dict[str, Any]:
    """The machine and the libraries, as plain values for a report."""
    info, versions = Path("/proc/cpuinfo"), {}
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):  # what is not installed is not listed
            versions[name] = metadata.version(name)
    versions["torch"] = torch.__version__  # with its build, "+cpu" or "+cu130", which the metadata may leave out
    return {
        "cpu": names[0] if names else platform.processor() or "unknown",
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "cores": psutil and psutil.cpu_count(logical=False),
        "usable_cores": harness.usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total if psutil else 0,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": versions,
    }


def product_step(batch: int, dim: int, dtype: torch.dtype = torch.float32) -> tuple[Callable[[Any], None], int]:
    """A call that only multiplies cache-sized tiles, and its floating-point operations."""
    rows, cols = torch.randn(TILE_ROWS, dim, dtype=dtype), torch.randn(TILE_COLS, dim, dtype=dtype)
    tile = torch.empty(TILE_ROWS, TILE_COLS, dtype=dtype)
    count = min(MOST_TILES, max(8, batch * batch // (TILE_ROWS * TILE_COLS)))

    def multiply(_: Any) -> None:
        for _ in range(count):
            torch.mm(rows, cols.T, out=tile)  # (TILE_ROWS, TILE_COLS)

    return multiply, count * 2 * TILE_ROWS * TILE_COLS * dim


def available_bytes() -> int:  # without swapping
    return psutil.virtual_memory().available if psutil else 2**33


def wall_clock() -> float:
    """Seconds, read when the GPU, if there is one, has done all that it was given.

    As `torch.utils.benchmark.timer`, whose import warns where a CUDA toolkit lies on a machine without a GPU.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _gpu_clock(call: Callable[[], Any]) -> Sample:
    _flush_buffer().zero_()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    wall = wall_clock()
    start.record()
    call()
    end.record()
    wall = wall_clock() - wall
    return Sample(start.elapsed_time(end) / 1e3, wall, torch.cuda.max_memory_allocated() - before)


def _gpu_free_bytes() -> int:  # what the driver has left and what torch's allocator holds unused
    return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def _gpu_product_step(batch: int, dim: int, dtype: torch.dtype) -> tuple[Callable[[Any], None], int]:
    a, b, out = _square_matrices(dtype)  # of one size, whatever the batch
    return lambda _: torch.mm(a, b, out=out), GPU_OPERATIONS


@cache
def _flush_buffer() -> Tensor:
    return torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")


@cache
def _square_matrices(dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(SIDE, SIDE, dtype=dtype, device="cuda") for _ in range(3)]
