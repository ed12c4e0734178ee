"""On what we measure: the machine in words, the libraries and their versions, and how fast it multiplies.

The ceiling of every method here is the rate of `torch.mm`, on a CPU on tiles that stay in cache. A loss of n products
(one product: a b x b x d matrix multiplication, 2 b^2 d operations) that spends t seconds reaches the share

    n 2 b^2 d / t  /  rate of torch.mm

of it, both measured in the same round.
"""

import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from minilib.bench.harness import usable_cores
from minilib.kernels.contrastive_tiled import TILE_COLS, TILE_ROWS

LIBRARIES = ("torch", "numpy", "open_clip_torch", "sentence-transformers", "transformers", "triton", "inf-cl")
LIBRARIES += ("peft", "trl", "liger-kernel", "cut-cross-entropy")
MOST_TILES = 256  # about a CPU second of products at d = 512


def describe() -> dict[str, Any]:
    """The machine and the libraries, as plain values for a report."""
    return {
        "cpu": _cpu_model(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "cores": psutil.cpu_count(logical=False),
        "usable_cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": {name: version for name in LIBRARIES if (version := _version(name))},
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


def available_bytes() -> int:
    """Memory that a new allocation may use without swapping."""
    return psutil.virtual_memory().available


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
