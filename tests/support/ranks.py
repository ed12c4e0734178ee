"""Real ranks for the tests: processes that meet over gloo on this machine, each with one thread.

They are forked from a server that has imported torch once, so that four of them start in a second.
"""

import multiprocessing
import pickle
import signal
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

PROCESSES = multiprocessing.get_context("forkserver")
PRELOAD = ["torch", "torch.distributed", "torch._dynamo", "minilib.losses.contrastive_ring", "minilib.trainers"]
PROCESSES.set_forkserver_preload(PRELOAD)  # dynamo as well: building an optimizer imports it


class End(NamedTuple):
    """How a rank ended: its result, or the error that it raised, or neither when it was killed; and after how long."""

    result: object
    error: Exception | None
    exitcode: int | None
    seconds: float


def run_ranks(ranks: int, work, *args, timeout: float = 60.0, patience: float = 120.0) -> list[End]:
    """Run `work(rank, *args)` in `ranks` processes that form a group with this `timeout`, and tell how each one ended.

    `work` is a function of a test module. What takes longer than `patience` seconds is killed and fails the test.
    """
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        processes = [
            PROCESSES.Process(target=_live, args=(rank, ranks, folder, timeout, work, args)) for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        ended = {}
        while len(ended) < ranks and time.monotonic() - started < patience:
            time.sleep(0.02)
            ended |= {
                k: time.monotonic() - started for k, p in enumerate(processes) if k not in ended and not p.is_alive()
            }
        for process in processes:
            process.kill()
            process.join()
        assert len(ended) == ranks, f"ranks {set(range(ranks)) - set(ended)} still ran after {patience} s"
        return [_end(folder, rank, process, ended[rank]) for rank, process in enumerate(processes)]


def results(ends: list[End]) -> list:
    """What every rank returned; the first error of any rank fails the test."""
    for rank, end in enumerate(ends):
        if end.error is not None:
            raise AssertionError(f"rank {rank} raised {type(end.error).__name__}: {end.error}") from end.error
        assert end.exitcode == 0, f"rank {rank} ended with {end.exitcode}"
    return [end.result for end in ends]


def _live(rank, ranks, folder, timeout, work, args):
    import torch
    import torch.distributed as dist

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=timeout))
    result = error = None
    try:
        result = work(rank, *args)
    except Exception as caught:
        error = type(caught)(str(caught))  # without its traceback, which cannot travel
    Path(folder, f"{rank}.pickle").write_bytes(pickle.dumps((result, error)))
    if error is None:
        dist.destroy_process_group()


def _end(folder, rank, process, seconds) -> End:
    path = Path(folder, f"{rank}.pickle")
    result, error = pickle.loads(path.read_bytes()) if path.exists() else (None, None)
    return End(result, error, process.exitcode, seconds)
