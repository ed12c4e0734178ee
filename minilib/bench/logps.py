"""Log-probabilities over a vocabulary and a preference loss on them, side by side in one run: time, memory, exactness.

    ratio(method) = median over rounds of  t(method) / t(dense),   frozen heads against dense with a frozen head

where
    t   CPU seconds of loss and backward on one pair of n tokens, hidden states (n, d), head (V, d), fp32

In this order: every method's loss and gradients against fp64; interleaved rounds; peak extra memory in processes of
their own. What the methods are stands in `logps_methods`. `bench_logps` measures in a fresh process, in the environment
of `harness.quiet_environment`. Proven in tests/test_logps_bench_is_honest.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from minilib.bench import harness, machine, tables
from minilib.bench import logps_methods as ways
from minilib.bench.logps_methods import Method
from minilib.teaching.memory import measure_peak

FROZEN = "dense, frozen head"
BARS = {("tiled", "dense"): 0.90, ("margin sweep", "dense"): 0.75, ("tiled, frozen head", FROZEN): 0.75}
MEMORY_BAR = 1 / 15  # of dense, for every method of ours
GATE = {"tokens": 256, "words": 2048, "dim": 64}
TOLERANCE = 1e-5
QUICK = {"tokens": 512, "dim": 64, "words": 2048, "rounds": 2}

_SETUP = """
from minilib.bench import logps_methods as ways
method = next(m for m in ways.available()[0] if m.name == {name!r})
method.step(ways.fresh(ways.make_inputs(64, {dim}, 64), method.frozen))
inputs = ways.fresh(ways.make_inputs({tokens}, {dim}, {words}), method.frozen)
"""


def bench_logps(
    tokens: int = 8192,
    dim: int = 512,
    words: int = 32768,
    rounds: int = 5,
    threads: int | None = None,
    memory: bool = True,
    quick: bool = False,
    output: Path = Path("runs/bench/logps.json"),
) -> dict[str, Any]:
    """Time loss and gradients of one long pair over a large vocabulary; return the document written as JSON.

    Args:
        tokens: answer tokens of the pair, an even number.
        dim: width of the hidden states.
        words: size of the vocabulary.
        rounds: timed calls of each method; one more warms it up.
        threads: threads to compute with; by default one for each usable core.
        memory: whether to measure peak extra memory too, in processes of their own.
        quick: a small pair and two rounds, to see that everything runs; its figures judge nothing.
        output: JSON file to write; its folder is made.

    Raises:
        ValueError: one sentence, when an argument does not fit. RuntimeError: when the measuring process broke.
    """
    settings = {"tokens": tokens, "dim": dim, "words": words, "rounds": rounds}
    settings |= {"threads": harness.usable_cores() if threads is None else threads}
    settings |= QUICK if quick else {}
    for name, value in settings.items():
        if value < 1:
            raise ValueError(f"{name} is {value}: give a whole number of at least 1.")
    if settings["tokens"] % 2:
        raise ValueError(f"tokens is {settings['tokens']}: give an even number, half of them for each answer.")
    settings["memory"] = memory
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    environment = {**os.environ, **harness.quiet_environment(settings["threads"]), "PYTHONPATH": path}
    command = [sys.executable, "-m", "minilib.bench.logps", json.dumps(settings), str(output)]
    if subprocess.run(command, env=environment, check=False).returncode:
        raise RuntimeError("the measuring process failed: its message stands above.")
    return json.loads(Path(output).read_text())


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Check, time and weigh the methods; settings, machine, errors, samples, ratios, peaks and bars as a plain dict."""
    torch.set_num_threads(settings["threads"])
    found, skipped = ways.available()
    free = machine.available_bytes()
    for method in list(found):
        need = 4 * settings["tokens"] * settings["words"] * method.matrices
        if need > 0.9 * free:
            skipped[method.name] = f"it needs about {need / 1e9:.1f} GB and {free / 1e9:.1f} GB are free."
            found.remove(method)
    errors = {method.name: error(method) for method in found}
    for method in list(found):
        if errors[method.name] > TOLERANCE:
            skipped[method.name] = f"it differs from fp64 by {errors[method.name]:.1e}, so it was not timed."
            found.remove(method)
    document = {"benchmark": "logps", "settings": settings, "machine": machine.describe(), "error": errors}
    document |= _time(found, settings, skipped) | {"skipped": skipped}
    document["memory"] = _memory(found, settings) if settings["memory"] else {}
    document["bars"] = _bars(document)
    return document


def error(method: Method) -> float:
    """Largest relative error of the loss and of both gradients, by norm, against dense log-probabilities in fp64."""
    exact = ways.make_inputs(**GATE, dtype=torch.float64)
    judge = Method("fp64", lambda x: ways.pair_loss(torch.log_softmax(x.hidden @ x.weight.T, 1)[_at(x)]), 3, 4)
    single = ways.Inputs(exact.hidden.float(), exact.weight.float(), exact.labels)
    outcomes = []
    for way, inputs in ((judge, exact), (method, single)):
        x = ways.fresh(inputs, method.frozen)
        outcomes.append([way.step(x), x.hidden.grad, *([] if method.frozen else [x.weight.grad])])
    return max(((mine - true).norm() / true.norm()).item() for true, mine in zip(*outcomes))


def table(document: dict[str, Any]) -> str:
    """The figures and the bars as plain text."""
    rows = []
    for name, cpu in document["cpu"].items():
        ratio, peak = document["ratio"][name], document["memory"].get(name)
        spread = f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
        weight = tables.format_bytes(peak) if peak else "-"
        rows.append([name, f"{cpu['median']:.2f}", spread, weight, f"{document['error'][name]:.0e}"])
    lines = [tables.plain(["method", "CPU s", "to its dense", "extra peak", "error"], rows)]
    lines += [f"{name}: {reason}" for name, reason in document["skipped"].items()]
    verdict = {True: "held", False: "missed", None: "not measured"}
    for bar in document["bars"]:
        measured = "" if bar["measured"] is None else f", measured {bar['measured']:.3f}"
        lines.append(f"bar: {bar['claim']} at most {bar['limit']:.3f}{measured}: {verdict[bar['held']]}")
    return "\n".join(lines)


def _at(x) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(len(x.labels)), x.labels


def _time(found: list[Method], settings: dict[str, Any], skipped: dict[str, str]) -> dict[str, Any]:
    sizes = [settings[name] for name in ("tokens", "dim", "words")]
    steps, frozen = {m.name: m.step for m in found}, {m.name: m.frozen for m in found}
    with tqdm(total=len(steps) * (settings["rounds"] + 1), desc="logps", unit="call", leave=False) as bar:
        _, failed = harness.warm_up(steps, lambda name: ways.fresh(ways.make_inputs(*sizes), frozen[name]), bar)
        skipped |= failed
        steps = {name: step for name, step in steps.items() if name not in failed}
        done = []
        for number in range(1, settings["rounds"] + 1):
            inputs = ways.make_inputs(*sizes, seed=number)
            again = lambda name, inputs=inputs: ways.fresh(inputs, frozen[name])  # noqa: E731
            done.append(harness.one_round(steps, again, number, bar))
            skipped |= done[-1].failed
    steps = {name: step for name, step in steps.items() if name not in skipped}
    base = {m.name: FROZEN if m.frozen else "dense" for m in found if m.name in steps}
    return {
        "cpu": {name: harness.spread([r.samples[name].spent for r in done]) for name in steps},
        "wall": {name: harness.spread([r.samples[name].wall for r in done]) for name in steps},
        "ratio": {name: harness.spread(harness.ratios(done, name, base[name])) for name in steps},
        "rounds": [{name: sample._asdict() for name, sample in r.samples.items()} for r in done],
        "others": [r.others for r in done],
    }


def _memory(found: list[Method], settings: dict[str, Any]) -> dict[str, int]:
    """Peak extra bytes of one call of each method, gradients included."""
    sizes = {name: settings[name] for name in ("tokens", "dim", "words")}
    peaks = {}
    for method in tqdm(found, desc="memory", unit="process", leave=False):
        setup = _SETUP.format(name=method.name, **sizes)
        peaks[method.name] = measure_peak(setup, "method.step(inputs)", threads=settings["threads"])
    return peaks


def _bars(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Every bar with its limit, the measured figure and whether it held; None where it was not measured."""
    bars = []
    for (name, base), limit in BARS.items():
        ratio = document["ratio"].get(name)
        peaks = [document["memory"].get(way) for way in (name, base)]
        for claim, most, measured in (
            (f"{name} / {base}, time", limit, ratio and ratio["median"]),
            (f"{name} / {base}, extra memory", MEMORY_BAR, peaks[0] / peaks[1] if all(peaks) else None),
        ):
            held = None if measured is None else measured <= most
            bars.append({"claim": claim, "limit": most, "measured": measured, "held": held})
    return bars


if __name__ == "__main__":
    found = measure(json.loads(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(found, indent=1))
    print(table(found))
