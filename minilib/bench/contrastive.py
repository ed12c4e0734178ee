"""The contrastive losses side by side: ours, torch's, open_clip's, sentence-transformers', in one run.

In this order: the machine; every method against fp64 (`gate`); CPU and wall seconds in interleaved rounds (`harness`);
peak extra memory in processes of their own (`memory`); the bars (`bars`). The document, a plain dict with every raw
sample, is written to its file after each step, so Ctrl-C leaves what was measured so far.

`bench_contrastive` starts a fresh process, because CPU seconds need an environment that is read before torch is
imported; `measure` is what that process runs. Taught in notebooks/04_tile_the_loss.ipynb (what the figures mean);
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

from minilib.bench import bars, gate, harness, machine, memory, methods, peers, tables
from minilib.bench.harness import Round
from minilib.bench.methods import Method

QUICK = {"batches": (256, 512), "rounds": 2, "gate_batch": 256, "memory_batches": (512,)}
GATE_BATCH = 1024
MEMORY_BATCHES = (8192, 16384, 32768)
PRODUCT = "torch.mm on tiles"


def bench_contrastive(
    batches: Sequence[int] = (4096, 8192, 16384),
    dim: int = 512,
    rounds: int = 5,
    scale: float = 14.3,
    threads: int | None = None,
    memory: bool = True,
    quick: bool = False,
    output: Path = Path("runs/bench/contrastive.json"),
) -> dict[str, Any]:
    """Measure time, memory and exactness of the contrastive losses side by side, and write them as JSON.

    Args:
        batches: batch sizes to time.
        dim: width of the features.
        rounds: timed calls of each method at each batch; one more call warms it up.
        scale: logit scale of the timed calls.
        threads: threads to compute with; by default one for each usable core.
        memory: whether to measure peak extra memory too, in processes of their own.
        quick: tiny batches and two rounds, to see in a minute that everything runs; its figures judge nothing.
        output: JSON file to write; folders are made.

    Returns:
        The document that was written: settings, machine, equality, timings with every sample, memory, bars.

    Raises:
        ValueError: one sentence, when an argument does not fit. RuntimeError: when the measuring process broke.
    """
    settings = {"batches": list(batches), "dim": dim, "rounds": rounds, "scale": scale}
    settings |= {"threads": harness.usable_cores() if threads is None else threads}
    settings |= {"gate_batch": GATE_BATCH, "memory_batches": list(MEMORY_BATCHES) if memory else []}
    _check(settings)
    if quick:
        settings |= QUICK | ({} if memory else {"memory_batches": []})
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    _run_apart(settings, output)
    return json.loads(output.read_text())


def measure(output: str, **settings: Any) -> dict[str, Any]:
    """Run every step of the benchmark in this process, printing as it goes; `settings` as `bench_contrastive` makes."""
    torch.set_num_threads(settings["threads"])
    document: dict[str, Any] = {"benchmark": "contrastive", "complete": False, "settings": settings}
    document |= {"machine": machine.describe(), "skipped": {}, "equality": [], "timings": [], "memory": [], "bars": []}
    try:
        _save(document, output)
        print(tables.machine_section(document), flush=True)
        found = _judge_all(document, output)
        for batch in settings["batches"]:
            _time_batch(document, found, batch, output)
        _measure_memory(document, found, output)
        document["complete"] = True
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not lose the file
        print("\nInterrupted: what was measured so far is kept.")
    document["bars"] = bars.judge(document)
    _save(document, output)
    print("\n" + tables.bars_section(document, tables.plain) + f"\n\nWritten to {output}", flush=True)
    return document


def _check(settings: dict[str, Any]) -> None:
    if not settings["batches"]:
        raise ValueError("batches is empty: give at least one batch size, such as 4096.")
    for name in ("dim", "rounds", "threads"):
        if settings[name] < 1:
            raise ValueError(f"{name} is {settings[name]}: give a whole number of at least 1.")
    if min(settings["batches"]) < 1:
        raise ValueError(f"batches holds {min(settings['batches'])}: give whole numbers of at least 1.")
    if not settings["scale"] > 0:
        raise ValueError(f"scale is {settings['scale']}: give a positive logit scale, such as 14.3.")


def _run_apart(settings: dict[str, Any], output: Path) -> None:
    arguments = json.dumps({**settings, "output": str(output)})
    with tempfile.TemporaryDirectory() as cache:  # compiled code of earlier runs would hide the time to compile
        environment = {
            **os.environ,
            **harness.quiet_environment(settings["threads"]),
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "TORCHINDUCTOR_CACHE_DIR": cache,
        }
        command = [sys.executable, "-m", "minilib.bench", arguments]
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


def _judge_all(document: dict[str, Any], output: str) -> list[Method]:
    """The methods that are available and right."""
    batch, dim = document["settings"]["gate_batch"], document["settings"]["dim"]
    others, document["skipped"] = peers.available()
    candidates = [*methods.ours(), methods.row_chunks(), *others]
    if document["skipped"]:
        print("\n" + tables.skipped_section(document), flush=True)
    right = []
    for method in tqdm(candidates, desc="equality", unit="method", leave=False):
        verdict = gate.judge(method, batch, dim)
        document["equality"].append(verdict._asdict())
        if verdict.equal:
            right.append(method)
        else:
            document["skipped"][method.name] = "its loss or gradients differ from fp64, so it was not timed."
    _save(document, output)
    print("\n" + tables.equality_section(document, tables.plain), flush=True)
    return right


def _time_batch(document: dict[str, Any], found: list[Method], batch: int, output: str) -> None:
    dim, scale, rounds = (document["settings"][name] for name in ("dim", "scale", "rounds"))
    fitting, skipped = _fitting(found, batch, dim)
    multiply, operations = machine.product_step(batch, dim)
    steps = {PRODUCT: multiply, **{method.name: method.step for method in fitting}}
    done: list[Round] = []
    timing: dict[str, Any] = {"batch": batch, "skipped": skipped}
    with tqdm(total=len(steps) * (rounds + 1), desc=f"b = {batch:,}", unit="call", leave=False) as bar:
        first, failed = harness.warm_up(steps, lambda seed: methods.make_inputs(batch, dim, scale, seed=seed), bar)
        skipped |= failed
        steps = {name: step for name, step in steps.items() if name not in failed}
        document["timings"].append(timing)
        for number in range(1, rounds + 1):
            inputs = methods.make_inputs(batch, dim, scale, seed=number)
            done.append(harness.one_round(steps, lambda _, inputs=inputs: methods.fresh(inputs), number, bar))
            timing |= _summarise(done, fitting, batch, dim, operations)
            timing["compiled"] = {name: first[name].wall for name in first if name.startswith("compiled")}
            _save(document, output)
    print("\n" + tables.timing_section(document, timing, tables.plain), flush=True)


def _fitting(found: list[Method], batch: int, dim: int) -> tuple[list[Method], dict[str, str]]:
    """The methods whose matrices fit into the memory that is free now, and a sentence for each of the others."""
    free, skipped = machine.available_bytes(), {}
    for method in found:
        need = int(method.matrices * 4 * batch**2 + 8 * 4 * batch * dim)
        if need > 0.9 * free:
            need_gb, free_gb = need / 1e9, free / 1e9
            skipped[method.name] = (
                f"it needs about {need_gb:.1f} GB and {free_gb:.1f} GB are free: choose a smaller batch."
            )
    return [method for method in found if method.name not in skipped], skipped


def _summarise(done: list[Round], fitting: list[Method], batch: int, dim: int, operations: int) -> dict[str, Any]:
    """Medians, spreads, ratios and shares of the rounds so far, beside every raw sample."""
    product = 2 * batch**2 * dim  # floating-point operations of one product
    rates = [operations / r.samples[PRODUCT].cpu / 1e9 for r in done if PRODUCT in r.samples]
    summary = {}
    for method in fitting:
        samples = [r.samples[method.name] for r in done if method.name in r.samples]
        if not samples:
            continue
        shares = [method.products * product / s.cpu / 1e9 / rate for s, rate in zip(samples, rates)]
        bases = {bar.base for bar in bars.RATIOS}
        summary[method.name] = {
            "cpu": harness.spread([s.cpu for s in samples]),
            "wall": harness.spread([s.wall for s in samples]),
            "ratios": {base: harness.spread(harness.ratios(done, method.name, base)) for base in sorted(bases)},
            "products": method.products,
            # A share of the fp32 rate says nothing about products in bf16.
            "share": None if method.tolerance == methods.ROUNDED else harness.spread(shares),
        }
    cpu = sum(s.cpu for r in done for s in r.samples.values())
    others = sum(r.others for r in done)
    raw = [{name: s._asdict() for name, s in r.samples.items()} for r in done]
    return {
        "rounds": raw,
        "summary": summary,
        "product_rate": harness.spread(rates),
        "others": others / (cpu + others),
    }


def _measure_memory(document: dict[str, Any], found: list[Method], output: str) -> None:
    settings = document["settings"]
    rows: list[dict[str, Any]] = []
    for batch in settings["memory_batches"]:
        fitting, skipped = _fitting(found, batch, settings["dim"])
        rows += memory.peaks(fitting, [batch], settings["dim"], settings["scale"], settings["threads"])
        skipped = {name: sentence for name, sentence in skipped.items() if name in memory.METHODS}
        document["skipped"] |= {f"memory of {name}, b = {batch:,}": text for name, text in skipped.items()}
    for row in tqdm(rows, desc="memory", unit="process", leave=False):
        document["memory"].append(row | memory.measure(**row))
        _save(document, output)
    if rows:
        print("\n" + tables.memory_section(document, tables.plain), flush=True)


def _save(document: dict[str, Any], output: str) -> None:
    # Written beside and renamed, so that the file is whole at any moment.
    partial = Path(f"{output}.part")
    partial.write_text(json.dumps(document, indent=1))
    partial.replace(output)
