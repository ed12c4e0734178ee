"""python -m minilib bench gpu: every stop of the plan that fits into the time, each in a process of its own.

What a stop breaks, a context of the GPU, its memory or its own end, it breaks for itself alone: it is ended after its
time, what it had written by then is kept, and the next one begins. After every stop the whole run stands in one JSON
and one Markdown file. Processes are forked from this one, which has imported torch and never touches the GPU, so that
none waits for imports; they share Triton's cache of compiled kernels.
"""

from __future__ import annotations

import importlib
import json
import math
import multiprocessing
import os
import random
import signal
import sys
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from minilib.bench import contrastive, harness, logps, step  # noqa: F401, so that no process has to import them
from minilib.bench.gpu import bars, page, plan
from minilib.bench.gpu.plan import STOPS, Stop
from minilib.common import write_text

BUDGET, DRY_BUDGET = 480.0, 600.0
WHEELS = Path("runs/wheels")
WORK = Path("runs/gpu")  # what is compiled and unpacked: thousands of files that nobody wants next to the results
START = "fork" if sys.platform == "linux" else "spawn"


def bench_gpu(
    budget: float | None = None, dry: bool = False, wheels: Path | None = None, only: Sequence[str] = (),
    output: Path = Path("runs/bench/gpu.json"),
) -> dict[str, Any]:  # fmt: skip
    """Measure on a CUDA GPU, the most valuable figures first, within a budget of seconds; return the document.

    Args:
        budget: seconds for everything; stops that would not fit are left out and named. By default 480.
        dry: walk the whole plan on a CPU at toy sizes, to see that everything is reached; its figures mean nothing.
        wheels: folder with wheels of inf-cl, siglip-kernel, liger-kernel and cut-cross-entropy, the peers; by default
            runs/wheels, if it is there. They are unpacked into runs/gpu and not installed.
        only: names of stops, such as gate or infonce; by default all of them.
        output: JSON file to write, its folder is made; the Markdown file next to it has the same name.

    Raises:
        ValueError: one sentence, when an argument does not fit or there is no GPU.
    """
    started, output = time.monotonic(), Path(output)
    budget = (DRY_BUDGET if dry else BUDGET) if budget is None else budget
    stops = _chosen(budget, dry, only)
    added = _add_wheels(WHEELS if wheels is None and WHEELS.is_dir() else wheels, WORK / "peers")
    document = {"benchmark": "gpu", "complete": False, "dry": dry, "budget": budget, "wheels": added, "stops": []}
    document["seed"] = random.SystemRandom().randrange(2**30)  # numbers that no run has seen
    for stop in stops:
        document["stops"].append({"name": stop.name, "what": stop.what, "predicted": stop.seconds, "how": stop.how})
    for stop, entry in zip(stops, document["stops"]):
        entry |= {"status": "running", "told": "", "result": None}
        _flush(document, output)
        try:
            _reach(stop, entry, document, budget - plan.RESERVE - (time.monotonic() - started), output)
        finally:  # after Ctrl-C as well
            _flush(document, output)
        print(f"{stop.name}: {entry['status']}. {entry['told']}", flush=True)
    document |= {"complete": True, "seconds": time.monotonic() - started}
    _flush(document, output)
    print(f"\nWritten to {output} and {output.with_suffix('.md')}")
    return document


def _chosen(budget: float, dry: bool, only: Sequence[str]) -> list[Stop]:
    """The stops of this run, after a look at the arguments."""
    known = {stop.name: stop for stop in STOPS}
    for name in only:
        if name not in known:
            raise ValueError(f"only names {name!r}: choose from {', '.join(known)}.")
    if not 0 < budget < math.inf:
        raise ValueError(f"budget is {budget}: give a positive number of seconds, such as 480.")
    if not dry:  # asked by another process, since one that has asked can no longer be forked
        look = multiprocessing.get_context(START).Process(target=_exit_where_no_gpu_is)
        look.start()
        look.join()
        if look.exitcode:
            raise ValueError("torch finds no CUDA GPU here: --dry walks through the plan on a CPU.")
    return [stop for stop in STOPS if not only or stop.name in only]


def _exit_where_no_gpu_is() -> None:
    sys.exit(not torch.cuda.is_available())


def _reach(stop: Stop, entry: dict[str, Any], document: dict[str, Any], left: float, output: Path) -> None:
    """Run a stop; its entry gets a status, a sentence, its seconds and its own document, as far as it came."""
    if reason := plan.too_late(stop, left):
        entry |= {"status": "left out", "told": f"It was not begun: {reason}", "seconds": 0.0}
        return
    settings = plan.settings_of(stop, document["seed"], document["dry"])
    if stop.name == "profile":
        settings["of"] = bars.furthest(document)
    part, begun = output.with_suffix(f".{stop.name.replace(' ', '_')}.part"), time.monotonic()
    for old in (part, part.with_suffix(".log")):
        old.unlink(missing_ok=True)
    entry |= {"status": "interrupted", "told": "What it had written by then is kept."}
    try:
        complaint = _run_apart(stop.module, settings, part, plan.limit(stop, left), WORK / "cache")
        told = complaint or f"It took {time.monotonic() - begun:.0f} s, predicted {stop.seconds:.0f} s."
        entry |= {"status": "failed" if complaint else "done", "told": told}
    finally:
        entry |= {
            "seconds": time.monotonic() - begun,
            "result": json.loads(part.read_text(encoding="utf-8")) if part.exists() else None,
        }
        part.unlink(missing_ok=True)


def _run_apart(module: str, settings: dict[str, Any], part: Path, seconds: float, cache: Path) -> str | None:
    """Run `module.measure` in a process of its own for so long at most; a sentence when it did not end well."""
    log = part.with_suffix(".log")
    process = multiprocessing.get_context(START).Process(
        target=_measure, args=(module, settings, str(part), str(log), str(cache.absolute()))
    )
    process.start()
    try:
        process.join(seconds)
        status = process.exitcode
    finally:  # it and all that it has started, in any case
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
    if status == 0:
        log.unlink(missing_ok=True)
        return None
    if status is None:
        return f"It was ended after {seconds:.0f} s; what it had written by then is kept."
    last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1] if log.exists() else ""
    return f"It ended with status {status}: {last[:300] or 'no message'} ({log.name} has the rest)."


def _measure(module: str, settings: dict[str, Any], part: str, log: str, cache: str) -> None:
    """What the process of a stop does; its output goes to its log, and errors end it with their last line there."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches the run alone, which ends this group
    with open(log, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    os.environ |= {"TRITON_CACHE_DIR": f"{cache}/triton", "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor"}
    os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"  # dense matrices must not break up memory
    if settings["device"] != "cuda":
        os.environ["TRITON_INTERPRET"] = "1"
    importlib.import_module(module).measure(settings, part)
    sys.stdout.flush()


def _add_wheels(folder: Path | None, target: Path) -> list[str]:
    """Unpack the wheels of a folder and put them last on the path, so that nothing installed is hidden."""
    if folder is None:
        return []
    files = sorted(Path(folder).glob("*.whl"))
    if not files:
        raise ValueError(f"wheels is {folder}, which holds none: pip download --no-deps puts them there.")
    for file in files:
        with zipfile.ZipFile(file) as wheel:
            wheel.extractall(target)
    if str(target.absolute()) not in sys.path:
        sys.path.append(str(target.absolute()))
    importlib.invalidate_caches()
    return [file.name for file in files]


def _flush(document: dict[str, Any], output: Path) -> None:
    """Both files as of now, each whole at any moment."""
    document = finite(document)
    write_text(output, json.dumps(document, indent=1, allow_nan=False))
    write_text(output.with_suffix(".md"), page.of_run(document))


def finite(value: Any) -> Any:
    """The same with None for every number that is not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
