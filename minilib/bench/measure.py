"""What the measuring process does, step by step, printing as it goes.

    the machine; every method against fp64 (`gate`); interleaved rounds of every cell (`plan`, `timing`);
    peak extra memory, in processes of their own on a CPU (`memory`), read in the rounds on a card;
    a ring of processes beside one (`ring`); the bars (`bars`)

The document, a plain dict with every raw sample, is written to its file after each step, so that Ctrl-C leaves what was
measured so far.
"""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from minilib.bench import bars, gate, harness, machine, memory, methods, on_card, peers, place, ring, tables, timing
from minilib.bench.methods import Method
from minilib.bench.place import Place
from minilib.bench.plan import Budget, cells

NO_CARD = "they need a CUDA card: Triton's interpreter is for correctness, not for speed."


def measure(settings: dict[str, Any], output: str, where: Place | None = None) -> dict[str, Any]:
    """Run every step in this process; `settings` as `bench_contrastive` makes them, `where` only given by tests."""
    budget = Budget(settings["seconds"])
    torch.set_num_threads(settings["threads"])
    where = where or place.named(settings["device"])
    document: dict[str, Any] = {"benchmark": "contrastive", "complete": False, "settings": settings, "unit": where.unit}
    document |= {"machine": machine.describe() | ({"card": where.card} if where.card else {}), "skipped": {}}
    document |= {"equality": [], "timings": [], "memory": [], "ring": [], "bars": []}
    _save(document, output)
    try:
        _say(tables.machine_section(document))
        found = _judge(document, where, output)
        _time(document, found, where, budget, output)
        _measure_memory(document, found, where, output)
        _measure_ring(document, output)
        document["complete"] = True
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not lose the file
        _say("Interrupted: what was measured so far is kept.")
    document["bars"] = bars.judge(document)
    _save(document, output)
    _say(tables.bars_section(document, tables.plain) + f"\n\nWritten to {output}")
    return document


def candidates(where: Place, others: bool) -> tuple[list[Method], dict[str, str]]:
    """The methods that may run in this place, InfoNCE before SigLIP, and a sentence for each that cannot."""
    if where.unit == "card":
        found, skipped = on_card.ours(), {}
    else:
        found, skipped = [*methods.ours(), methods.row_chunks()], {"fused methods": NO_CARD}
    if others:
        more, why = peers.available(device="cpu" if where.unit == "cpu" else "cuda")
        found, skipped = found + more, skipped | why
    return sorted(found, key=lambda method: method.loss), skipped


def _judge(document: dict[str, Any], where: Place, output: str) -> list[Method]:
    """The methods that run here and are right; the document tells of the others."""
    settings, right = document["settings"], []
    found, document["skipped"] = candidates(where, settings["others"])
    found, too_narrow = methods.split_by_width(found, settings["dim"])
    document["skipped"] |= too_narrow
    for method in tqdm(found, desc="equality", unit="method", leave=False, disable=None):
        verdict = gate.judge(method, settings["gate_batch"], settings["dim"], where.device)
        document["equality"].append(verdict._asdict())
        if verdict.equal:
            right.append(method)
        else:
            document["skipped"][method.name] = "its loss or gradients differ from fp64, so it was not timed."
    _save(document, output)
    _say(tables.equality_section(document, tables.plain))
    _say(tables.skipped_section(document))
    return right


def _time(document: dict[str, Any], found: list[Method], where: Place, budget: Budget, output: str) -> None:
    todo = cells(document["settings"])
    for number, cell in enumerate(todo):
        refused = budget.begin(cell, todo[number + 1 :])
        if refused:
            document["skipped"][f"b = {cell.batch:,}, d = {cell.dim}"] = refused
            _say(f"Skipped: b = {cell.batch:,}, d = {cell.dim}: {refused}")
            continue
        before, rows = list(document["timings"]), list(document["memory"])

        def keep(result: dict[str, Any], before=before, rows=rows) -> None:
            document["timings"] = [*before, result]
            document["memory"] = [*rows, *timing.peaks(result, found)]
            _save(document, output)

        timing.time_cell(found, cell, document["settings"], where, budget, keep)
        if len(document["timings"]) > len(before):
            _say(tables.timing_section(document, document["timings"][-1], tables.plain))


def _measure_memory(document: dict[str, Any], found: list[Method], where: Place, output: str) -> None:
    settings = document["settings"]
    batches = settings["memory_batches"] if where.unit == "cpu" else []
    wanted = [(batch, method) for batch in batches for method in memory.meant_for(found, batch)]
    for batch, method in tqdm(wanted, desc="memory", unit="process", leave=False, disable=None):
        options = (batch, settings["dim"], settings["scale"], settings["threads"])
        try:
            peak = memory.peak_bytes(method, *options)
            row = {"method": method.name, "batch": batch, "dim": settings["dim"], **peak}
            document["memory"].append(row | {"per_element": peak["peak"] / (batch * settings["dim"])})
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            document["skipped"][f"memory of {method.name}, b = {batch:,}"] = f"{harness.first_line(error)}."
        _save(document, output)
    _say(tables.memory_section(document, tables.plain))


def _measure_ring(document: dict[str, Any], output: str) -> None:
    settings = document["settings"]
    counts, refused = ring.possible(settings["ranks"], settings["device"])
    if refused:
        document["skipped"]["ring"] = refused
        _say(f"Skipped: ring: {refused}")
    try:
        for row in ring.measure_ring(counts, settings):
            document["ring"].append(row)
            _save(document, output)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        document["skipped"]["ring"] = f"{harness.first_line(error)}."
        _say(f"Skipped: ring: {document['skipped']['ring']}")
    _say(tables.ring_section(document, tables.plain))


def _say(section: str) -> None:
    if section:
        print("\n" + section, flush=True)


def _save(document: dict[str, Any], output: str) -> None:
    # Written beside and renamed, so that the file is whole at any moment.
    partial = Path(f"{output}.part")
    partial.write_text(json.dumps(document, indent=1))
    partial.replace(output)
