"""A CUDA card as a place to measure: seconds between two events, the allocator's own peak, the rate of a large product.

    spent   from the event before the call to the event after it, both on the stream that the call works on
    peak    highest allocation during the call - allocation before it: the features exist before, the gradients do not
    rate    torch.mm of square matrices in the dtype of the features, `SIDE` on each side

Before each call a buffer much larger than the L2 cache is overwritten, so that no method finds its inputs there because
the one before has left them. fp32 matrices are multiplied in fp32, not TF32: torch's default, which a run leaves alone.

This file needs a card and no test here runs it; all that is measured with it runs in tests on a stand-in.
"""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from minilib.bench.harness import Sample
from minilib.bench.place import Place

FLUSH_BYTES = 256 * 2**20  # five times the L2 cache of an H200
SIDE = 8192
OPERATIONS = 2 * SIDE**3


def on_card() -> Place:
    """The current CUDA device."""
    card = torch.cuda.get_device_properties(torch.cuda.current_device())
    words = {
        "name": card.name,
        "memory_bytes": card.total_memory,
        "capability": f"{card.major}.{card.minor}",
        "multiprocessors": card.multi_processor_count,
        "cuda": torch.version.cuda,
    }
    return Place("cuda", "card", clock, free_bytes, product_step, words)


def clock(call: Callable[[], Any]) -> Sample:
    """Time one call between two events and read the memory that it added at its highest point."""
    _flush_buffer().zero_()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    wall = time.perf_counter()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    wall = time.perf_counter() - wall
    return Sample(start.elapsed_time(end) / 1e3, wall, torch.cuda.max_memory_allocated() - before)


def free_bytes() -> int:
    """What the driver has left and what torch's allocator holds unused."""
    return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def product_step(batch: int, dim: int, dtype: torch.dtype) -> tuple[Callable[[Any], None], int]:
    """A call that only multiplies two square matrices, and its floating-point operations, whatever the batch."""
    a, b, out = _square_matrices(dtype)
    return lambda _: torch.mm(a, b, out=out), OPERATIONS


@cache
def _flush_buffer() -> Tensor:
    return torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")


@cache
def _square_matrices(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    a, b = (torch.randn(SIDE, SIDE, dtype=dtype, device="cuda") for _ in range(2))
    return a, b, torch.empty_like(a)
