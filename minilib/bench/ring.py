"""A ring of processes beside one process, at the same global batch: time, work, messages, and the loss they agree on.

    wall      seconds of one step, until the last rank is done
    work      CPU seconds of all ranks together  /  CPU seconds of one process
    sent      bytes that one rank hands on in a step / (b d), counted by the diary of the ring itself
    released  the same for the authors' ring: 8 (2 (n - 1) / n + 1), both directions, everything in fp32

where
    n, b, d   ranks, pairs of all ranks together, width of the features

On a CPU the ranks meet over gloo and have one thread each; on more than one card they meet over NCCL, a card each. The
rings run one after the other, not in turn: ranks of one ring would stand in the way of the next. With more ranks than
cores the wall time tells of the cores, and the work of what the ring costs. Before any time is taken, each ring is
compared with fp64 on a small batch. What a rank does is in `ring_rank`.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from minilib.bench import harness
from minilib.bench.methods import EXACT

PATIENCE = 600.0  # seconds that one ring may take altogether


def possible(ranks: Sequence[int], device: str) -> tuple[list[int], str | None]:
    """The rings that this machine can form, and a sentence when there are none though some were asked for."""
    if device == "cpu" or not ranks:
        return list(ranks), None
    cards = torch.cuda.device_count()
    fitting = [count for count in ranks if count <= cards]
    if not fitting:
        return [], f"NCCL needs a card for each rank and there is {cards}: use a machine with more, or --device cpu."
    return fitting, None


def measure_ring(ranks: Sequence[int], settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One row for one process and one for each ring; RuntimeError of one sentence when a rank fails or is wrong."""
    single = None
    for count in [1, *ranks] if ranks else []:
        row = summarise(run_ranks(count, settings), settings)
        if row["error"] > EXACT:
            raise RuntimeError(f"the ring of {count} differs from fp64 by {row['error']:.1e}, so it was not timed")
        single = single or row
        yield row | {"work": row["cpu"]["median"] / single["cpu"]["median"]}


def run_ranks(count: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What every rank of a ring of `count` processes measured; one process needs no group."""
    with tempfile.TemporaryDirectory() as folder:
        ring = {"ranks": count, "folder": folder, "batch": settings["ring_batch"], "steps": settings["ring_steps"]}
        ring |= {name: settings[name] for name in ("dim", "scale", "device", "ring_gate_batch")}
        environment = {
            **os.environ,
            **harness.quiet_environment(1),
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        }
        processes = []
        try:
            for rank in range(count):
                command = [sys.executable, "-m", "minilib.bench.ring_rank", json.dumps(ring | {"rank": rank})]
                with open(Path(folder, f"{rank}.err"), "wb") as complaints:
                    processes.append(subprocess.Popen(command, env=environment, stderr=complaints))
            _wait(processes, folder)
        finally:
            for process in processes:
                process.kill()  # without effect on one that has ended
                process.wait()
        return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(count)]


def summarise(found: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """One row of the table from what the ranks wrote: the slowest rank's wall, all ranks' CPU seconds."""
    count, elements = len(found), settings["ring_batch"] * settings["dim"]
    walls = [max(walls) for walls in zip(*(rank["wall"] for rank in found))]
    cpus = [sum(cpus) for cpus in zip(*(rank["cpu"] for rank in found))]
    return {
        "ranks": count,
        "batch": settings["ring_batch"],
        "dim": settings["dim"],
        "wall": harness.spread(walls),
        "cpu": harness.spread(cpus),
        "sent": statistics.mean(sum(rank["sent"].values()) for rank in found) / elements,
        "released": released_bytes(count),
        "error": max(rank["error"] for rank in found),
        "raw": found,
    }


def released_bytes(count: int) -> float:
    """Bytes per element of b x d that a rank of the authors' ring sends in a step; none where there is no ring."""
    return 8 * (2 * (count - 1) / count + 1) if count > 1 else 0.0


def _wait(processes: list[subprocess.Popen], folder: str) -> None:
    started = time.monotonic()
    while any(process.poll() is None for process in processes):
        failed = [rank for rank, process in enumerate(processes) if process.poll()]
        if failed or time.monotonic() - started > PATIENCE:
            break
        time.sleep(0.05)
    for rank, process in enumerate(processes):
        if process.poll():
            lines = Path(folder, f"{rank}.err").read_text(errors="replace").strip().splitlines()
            raise RuntimeError(f"rank {rank} of {len(processes)} failed ({(lines or ['no message'])[-1].rstrip('.')})")
    if any(process.poll() is None for process in processes):
        raise RuntimeError(f"a ring of {len(processes)} took longer than {PATIENCE:.0f} s")
