"""How we time: interleaved rounds in one process, ratios taken round by round.

    ratio(A) = median over rounds k of  t_k(A) / t_k(base)

where
    t_k   seconds that one call in round k spends: CPU seconds, or on a card the time between two events (`place`);
          a round calls every method once, in the same order, on the same numbers
    base  the method that the others are compared with, in the same round: what slows the machine slows both

Every method is called once untimed at the measured shape first: allocators, thread pools and compilers warm up there.
CPU seconds count all threads and forgive neighbours on the machine, but only if waiting threads sleep instead of
spinning; that is decided before torch is imported, so a run has its own process with `quiet_environment`.
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from tqdm import tqdm


class Sample(NamedTuple):
    """One timed call: seconds `spent` (CPU seconds of all threads, or seconds of the card), seconds of `wall` clock.

    `peak` is the memory that the call added at its highest point, where the clock can read it, and None elsewhere.
    """

    spent: float
    wall: float
    peak: int | None = None


class Round(NamedTuple):
    """One call of every method, and the CPU seconds that this process (`own`) and all `others` used meanwhile.

    `failed` has a sentence for every method whose call raised an error.
    """

    samples: dict[str, Sample]
    others: float
    own: float = 0.0
    failed: dict[str, str] = {}  # noqa: RUF012, never written to


Clock = Callable[[Callable[[], Any]], Sample]
Steps = dict[str, Callable[[Any], Any]]


def quiet_environment(threads: int) -> dict[str, str]:
    """Environment variables of a measuring process: fixed threads that sleep while they wait (GNU and LLVM OpenMP)."""
    sleep = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **sleep}


def run_apart(module: str, settings: dict[str, Any], output: Path) -> dict[str, Any]:
    """Measure in a fresh, quiet process; return the document that it wrote to `output`.

    `module` has `measure(settings)`, which returns the document, and `table(document)`; `settings` holds the number of
    `threads`. RuntimeError of one sentence when the process fails.
    """
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    environment = {**os.environ, **quiet_environment(settings["threads"]), "PYTHONPATH": path}
    code = "import sys; from minilib.bench import harness; harness.run_here(*sys.argv[1:])"
    command = [sys.executable, "-c", code, module, json.dumps(settings), str(output)]
    if subprocess.run(command, env=environment).returncode:
        raise RuntimeError("the measuring process failed: its message stands above.")
    return json.loads(Path(output).read_text())


def run_here(module: str, settings: str, output: str) -> None:
    """What the process of `run_apart` does: measure, write the document, print its table."""
    bench = importlib.import_module(module)
    document = bench.measure(json.loads(settings))
    Path(output).write_text(json.dumps(document, indent=1))
    print(bench.table(document))


def refuse_below_one(settings: dict[str, Any]) -> None:
    """ValueError of one sentence for a setting that is not at least 1."""
    for name, value in settings.items():
        if value < 1:
            raise ValueError(f"{name} is {value}: give a whole number of at least 1.")


def usable_cores() -> int:
    """Cores that this process may run on, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def clock(call: Callable[[], Any]) -> Sample:
    """Time one call in CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Sample(time.process_time() - cpu, time.perf_counter() - wall)


def warm_up(
    steps: Steps, inputs: Callable[[str], Any], bar: tqdm, clock: Clock = clock
) -> tuple[dict[str, Sample], dict[str, str]]:
    """Call every method once; return the time of these first calls, and a sentence for each that could not be made.

    `inputs(name)` makes what the method of this name is called with.
    """
    first, failed = {}, {}
    for name, step in steps.items():
        bar.set_postfix_str(f"warm-up: {name}")
        try:
            fresh = inputs(name)
            first[name] = clock(lambda step=step, fresh=fresh: step(fresh))
        except Exception as error:  # a peer may fail in any way; the run goes on and the report says so
            failed[name] = f"its first call failed ({type(error).__name__}: {first_line(error)})."
        bar.update()
    return first, failed


def one_round(steps: Steps, inputs: Callable[[str], Any], number: int, bar: tqdm, clock: Clock = clock) -> Round:
    """Call every method once, in order, each on its own fresh `inputs(name)`, made outside the clock."""
    samples, failed = {}, {}
    busy, own = _busy_seconds(), time.process_time()
    for name, step in steps.items():
        bar.set_postfix_str(f"round {number}: {name}")
        fresh = inputs(name)
        try:
            samples[name] = clock(lambda step=step, fresh=fresh: step(fresh))
        except Exception as error:  # memory may run out in a later round than the first
            failed[name] = f"round {number} failed ({type(error).__name__}: {first_line(error)})."
        bar.update()
    own = time.process_time() - own
    return Round(samples, max(0.0, _busy_seconds() - busy - own), own, failed)


def ratios(rounds: list[Round], name: str, base: str) -> list[float]:
    """Seconds that `name` spends over those of `base`, one value per round; empty when either was not timed."""
    both = [r.samples for r in rounds if name in r.samples and base in r.samples]
    return [samples[name].spent / samples[base].spent for samples in both]


def spread(values: list[float]) -> dict[str, float] | None:
    """Median, smallest and largest value; None when there is none."""
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for a sentence."""
    return (str(error).strip().splitlines() or ["no message"])[0]


def _busy_seconds() -> float:
    # CPU seconds that the whole machine has worked since it started; guests are in `user` already.
    times = psutil.cpu_times()
    return sum(times) - times.idle - sum(getattr(times, kind, 0.0) for kind in ("iowait", "guest", "guest_nice"))
