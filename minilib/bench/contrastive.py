"""The contrastive losses side by side: ours, torch's, open_clip's, sentence-transformers', in one run.

In this order: the machine; every method against fp64 (`gate`); CPU and wall seconds in interleaved rounds (`timing`);
peak extra memory in processes of their own (`memory`); the bars (`bars`). The document, a plain dict with every raw
sample, is written to its file after each step, so Ctrl-C leaves what was measured so far.

`bench_contrastive` starts a fresh process, because CPU seconds need an environment that is read before torch is
imported; `measure` is what that process runs. What the figures mean is taught in notebooks/04_tile_the_loss.ipynb;
proven in tests/test_bench_is_honest.py.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from minilib.bench import bars, gate, harness, machine, memory, methods, peers, tables, timing
from minilib.bench.methods import Method

GATE_BATCH = 1024
MEMORY_BATCHES = (8192, 16384, 32768)
QUICK = {"batches": [256, 512], "rounds": 2, "gate_batch": 256}
QUICK_MEMORY_BATCHES = (512,)


def bench_contrastive(
    batches: Sequence[int] = (4096, 8192, 16384),
    dim: int = 512,
    rounds: int = 5,
    scale: float = 14.3,
    threads: int | None = None,
    memory: bool = True,
    others: bool = True,
    quick: bool = False,
    output: Path = Path("runs/bench/contrastive.json"),
) -> dict[str, Any]:
    """Measure time, memory and exactness of contrastive losses side by side; return the document written as JSON.

    Args:
        batches: batch sizes to time.
        dim: width of the features.
        rounds: timed calls of each method at each batch; one more call warms it up.
        scale: logit scale of the timed calls.
        threads: threads to compute with; by default one for each usable core.
        memory: whether to measure peak extra memory too, in processes of their own.
        others: whether to measure torch.compile, torch's own loss and other libraries beside ours.
        quick: tiny batches and two rounds, to see in a minute that everything runs; its figures judge nothing.
        output: JSON file to write; its folder is made.

    Raises:
        ValueError: one sentence, when an argument does not fit. RuntimeError: when the measuring process broke.
    """
    settings = {"batches": list(batches), "dim": dim, "rounds": rounds, "scale": scale, "others": others}
    settings |= {"threads": harness.usable_cores() if threads is None else threads, "gate_batch": GATE_BATCH}
    settings |= QUICK if quick else {}
    settings["memory_batches"] = list(QUICK_MEMORY_BATCHES if quick else MEMORY_BATCHES) if memory else []
    _check(settings)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    _run_apart(settings, Path(output))
    return json.loads(Path(output).read_text())


def measure(settings: dict[str, Any], output: str) -> dict[str, Any]:
    """Run every step in this process, printing as it goes; `settings` as `bench_contrastive` makes them."""
    torch.set_num_threads(settings["threads"])
    document: dict[str, Any] = {"benchmark": "contrastive", "complete": False, "settings": settings}
    document |= {"machine": machine.describe(), "skipped": {}, "equality": [], "timings": [], "memory": [], "bars": []}
    _save(document, output)
    try:
        _say(tables.machine_section(document))
        found = _judge(document, output)
        for batch in settings["batches"]:
            _time(document, found, batch, output)
        _measure_memory(document, found, output)
        document["complete"] = True
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not lose the file
        _say("Interrupted: what was measured so far is kept.")
    document["bars"] = bars.judge(document)
    _save(document, output)
    _say(tables.bars_section(document, tables.plain) + f"\n\nWritten to {output}")
    return document


def _check(settings: dict[str, Any]) -> None:
    if not settings["batches"]:
        raise ValueError("batches is empty: give at least one batch size, such as 4096.")
    if min(settings["batches"]) < 1:
        raise ValueError(f"batches holds {min(settings['batches'])}: give whole numbers of at least 1.")
    for name in ("dim", "rounds", "threads"):
        if settings[name] < 1:
            raise ValueError(f"{name} is {settings[name]}: give a whole number of at least 1.")
    if not settings["scale"] > 0:
        raise ValueError(f"scale is {settings['scale']}: give a positive logit scale, such as 14.3.")


def _run_apart(settings: dict[str, Any], output: Path) -> None:
    with tempfile.TemporaryDirectory() as cache:  # compiled code of earlier runs would hide the time to compile
        environment = {
            **os.environ,
            **harness.quiet_environment(settings["threads"]),
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "TORCHINDUCTOR_CACHE_DIR": cache,
        }
        command = [sys.executable, "-m", "minilib.bench", json.dumps(settings), str(output)]
        # A session of its own: Ctrl-C reaches this process only, which passes it on exactly once.
        child = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            status = child.wait()
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)
            status = child.wait()
        finally:
            child.kill()  # without effect on a process that has ended
    if status not in (0, 130):
        raise RuntimeError(f"the measuring process ended with status {status}: its message stands above.")


def _judge(document: dict[str, Any], output: str) -> list[Method]:
    """The methods that run here and are right, InfoNCE before SigLIP; the document tells of the others."""
    settings = document["settings"]
    candidates = [*methods.ours(), methods.row_chunks()]
    if settings["others"]:
        found, document["skipped"] = peers.available()
        candidates += found
    right = []
    for method in tqdm(sorted(candidates, key=lambda m: m.loss), desc="equality", unit="method", leave=False):
        verdict = gate.judge(method, settings["gate_batch"], settings["dim"])
        document["equality"].append(verdict._asdict())
        if verdict.equal:
            right.append(method)
        else:
            document["skipped"][method.name] = "its loss or gradients differ from fp64, so it was not timed."
    _save(document, output)
    _say(tables.equality_section(document, tables.plain))
    _say(tables.skipped_section(document))
    return right


def _time(document: dict[str, Any], found: list[Method], batch: int, output: str) -> None:
    before = list(document["timings"])

    def keep(result: dict[str, Any]) -> None:
        document["timings"] = [*before, result]
        _save(document, output)

    settings = document["settings"]
    result = timing.time_batch(found, batch, settings["dim"], settings["scale"], settings["rounds"], keep)
    _say(tables.timing_section(document, result, tables.plain))


def _measure_memory(document: dict[str, Any], found: list[Method], output: str) -> None:
    settings = document["settings"]
    wanted = [(batch, method) for batch in settings["memory_batches"] for method in memory.meant_for(found, batch)]
    for batch, method in tqdm(wanted, desc="memory", unit="process", leave=False):
        options = (batch, settings["dim"], settings["scale"], settings["threads"])
        try:
            peak = memory.peak_bytes(method, *options)
            document["memory"].append({"method": method.name, "batch": batch, "dim": settings["dim"], **peak})
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            document["skipped"][f"memory of {method.name}, b = {batch:,}"] = f"{harness.first_line(error)}."
        _save(document, output)
    _say(tables.memory_section(document, tables.plain))


def _say(section: str) -> None:
    if section:
        print("\n" + section, flush=True)


def _save(document: dict[str, Any], output: str) -> None:
    # Written beside and renamed, so that the file is whole at any moment.
    partial = Path(f"{output}.part")
    partial.write_text(json.dumps(document, indent=1))
    partial.replace(output)
