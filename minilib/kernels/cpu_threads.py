"""Share the tiles of a matrix among the threads of a CPU, so that no two of them ever add to the same row or column.

    round k     thread t visits every n-th row block from t on against every n-th column block from (t + k) mod n on

where
    n, t, k     the number of threads; t and k run from 0 to n - 1

In a round, rows and columns each belong to one thread, so sums and gradients need neither locks nor a copy per thread,
and every entry is added to in one fixed order: results repeat bit by bit. Each thread runs its operators alone: a
matmul of one tile is too small to be split well, and torch lets other Python threads run while an operator works.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import Any

import torch

Tiles = list[tuple[slice, slice]]


def share_tiles(fold: Callable[[Tiles], Any], rows: list[slice], cols: list[slice], device: torch.device) -> list:
    """Call `fold(tiles)` for lists of tiles that together are all of `rows` x `cols`; the results, in fixed order.

    One thread, another device than a CPU, or fewer blocks than threads: the calling thread folds all tiles.
    """
    n = torch.get_num_threads() if device.type == "cpu" else 1
    if n == 1 or min(len(rows), len(cols)) < n:
        return [fold([(i, j) for i in rows for j in cols])]
    results, inference = [], torch.is_inference_mode_enabled()

    def alone(tiles: Tiles) -> Any:
        # Gradient and inference mode belong to a thread; this one would record every operator for autograd.
        with torch.inference_mode(inference), torch.no_grad():
            return fold(tiles)

    for k in range(n):
        parts = [[(i, j) for i in rows[t::n] for j in cols[(t + k) % n :: n]] for t in range(n)]
        results += _pool(n, os.getpid()).map(alone, parts)  # all threads end a round before the next begins
    return results


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads of one intra-op thread each; a forked process asks by its own id, since it inherits no threads."""
    pool, all_started = ThreadPoolExecutor(threads), Barrier(threads)

    def start(_: int) -> None:
        torch.set_num_threads(1)
        all_started.wait()

    list(pool.map(start, range(threads)))
    torch.set_num_threads(threads)  # the setting also became the default of threads yet to start
    return pool
