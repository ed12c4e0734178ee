"""Runs what the plan wants, several at a time, and writes every finished run into one JSON; goes on where it stopped.

output          settings, machines, one record for each finished run, and what they say together
next to it      the page batches.md and its figures, made from that file alone

`--budget 0` runs nothing and makes the page anew: `python -m minilib bench batches --output book/results/batches.json
--budget 0`.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from minilib.bench import device, harness
from minilib.bench.batches import one_run, pages, plan
from minilib.bench.records import line_by_line, opened
from minilib.common import write_text


def bench_batches(
    output: Path = Path("runs/bench/batches.json"), budget: float | None = None, workers: int | None = None,
    quick: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Ask when a larger batch pays: recall against batch size at three amounts of data, hours on two cores.

    The same command goes on after an interrupt; every finished run is kept.

    Args:
        output: JSON file with every run; the page batches.md and its figures are written next to it.
        budget: seconds after which no further run begins, by default none; 0 makes the page of what is there.
        workers: runs at a time, one thread each, by default one for each usable core.
        quick: tiny data and models, to see in seconds that everything runs; its figures judge nothing.
    """
    if budget is not None and not 0 <= budget < math.inf:
        raise ValueError(f"budget is {budget}: give the seconds as a number of at least 0, or leave it out.")
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}: give a whole number of at least 1.")
    output, settings = Path(output), plan.FULL | (plan.QUICK if quick else {})
    document = _opened(output, settings)
    end = math.inf if budget is None else time.monotonic() + budget
    if budget != 0:
        document["machine"] = _machine(document)
    workers = workers or harness.usable_cores()
    pool = _pool(workers)
    try:
        _run_all(pool, workers, document, output, end)
        pool.shutdown()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():  # their runs would take minutes to end
            process.terminate()
        raise
    finally:
        if document["records"]:
            document |= pages.summarise(document)
            _write(output, document)
            pages.write(output.parent, document)
    print(pages.plain(document))
    return document


def _opened(output: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What the file holds, or an empty document; ValueError where it was begun with other settings."""
    if not output.exists():
        return {"benchmark": "batches", "settings": settings, "machines": [], "records": []}
    return opened(output, settings, "records", plan.COMPARED) | {"settings": settings}


def _machine(document: dict[str, Any]) -> int:
    """The number of this machine among those of the document."""
    found = device.describe() | {"threads": 1}
    found["libraries"] |= {name: metadata.version(name) for name in ("matplotlib", "pillow")}  # they draw the glyphs
    if found not in document["machines"]:
        document["machines"].append(found)
    return document["machines"].index(found)


def _run_all(pool: Executor, workers: int, document: dict[str, Any], output: Path, end: float) -> None:
    """Keep `workers` runs going until the plan has no more, or the time is over; write after each."""
    running: dict[Future, plan.Run] = {}
    with tqdm(initial=len(document["records"]), desc="runs", unit="run", disable=None) as bar:
        while True:
            begun = {*map(plan.run_of, document["records"]), *running.values()}
            for run in plan.wanted(document["settings"], document["records"]):
                if len(running) >= workers or time.monotonic() >= end:
                    break
                if run not in begun:
                    running[pool.submit(one_run.train_and_score, run, document["settings"])] = run
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                document["records"].append(future.result() | {"machine": document["machine"]})
                del running[future]
                bar.update()
            _write(output, document)


def _write(output: Path, document: dict[str, Any]) -> None:
    """The document without the number of the machine that this run is on."""
    write_text(output, line_by_line({name: value for name, value in document.items() if name != "machine"}))


class _Here(Executor):
    """Runs a job at once, in this process."""

    def submit(self, job, /, *arguments) -> Future:
        future: Future = Future()
        future.set_result(job(*arguments))
        return future


def _pool(workers: int) -> Executor:
    if workers == 1:
        torch.set_num_threads(1)
        return _Here()
    os.environ |= harness.quiet_environment(1)  # read by the processes when they start
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
