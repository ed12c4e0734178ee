"""Log-probabilities over a vocabulary and a preference loss on them, side by side in one run: time, memory, exactness.

    ratio(method) = median over rounds of  t(method) / t(dense),   frozen heads against dense with a frozen head

where
    t   seconds of loss and backward on one pair of n tokens, hidden states (n, d), head (V, d): CPU seconds in fp32, or
        on a CUDA card seconds between two events, in bf16 and at the size of a large model's head

In this order: every method's loss and gradients against fp64; interleaved rounds; peak extra memory, on a CPU in
processes of their own. What the methods are stands in `logps_methods`, what is promised in `logps_bars`. `bench_logps`
measures in a fresh process, in the environment of `harness.quiet_environment`. It has not run on a card yet.
"""

import statistics
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from minilib.bench import harness, logps_bars, machine, place, tables
from minilib.bench import logps_methods as ways
from minilib.bench.logps_bars import FROZEN
from minilib.bench.logps_methods import Method
from minilib.bench.on_card import NAMES
from minilib.bench.place import Place
from minilib.teaching.memory import measure_peak

SIZES = {"cpu": {"tokens": 8192, "dim": 512, "words": 32_768}, "cuda": logps_bars.CARD_SIZE}
PRECISION = {"cpu": "fp32", "cuda": "bf16"}
DTYPES = {name: dtype for dtype, name in NAMES.items()}
GATE = {"tokens": 256, "words": 2048, "dim": 64}
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
QUICK = {"tokens": 512, "dim": 64, "words": 2048, "rounds": 2}

_SETUP = """
from minilib.bench import logps_methods as ways
method = next(m for m in ways.available()[0] if m.name == {name!r})
method.step(ways.fresh(ways.make_inputs(64, {dim}, 64), method.frozen))
inputs = ways.fresh(ways.make_inputs({tokens}, {dim}, {words}), method.frozen)
"""


def bench_logps(
    tokens: int | None = None,
    dim: int | None = None,
    words: int | None = None,
    rounds: int = 5,
    threads: int | None = None,
    device: str = "auto",
    memory: bool = True,
    quick: bool = False,
    output: Path | None = None,
) -> dict[str, Any]:
    """Time loss and gradients of one long pair over a large vocabulary; return the document written as JSON.

    Args:
        tokens: answer tokens of the pair, an even number; by default 8,192.
        dim: width of the hidden states, by default 512, on a card 4,096.
        words: size of the vocabulary, by default 32,768, on a card 128,256.
        rounds: timed calls of each method; one more warms it up.
        threads: threads to compute with; by default one for each usable core.
        device: "cpu", "cuda", or "auto" for the card if there is one.
        memory: whether a run on a CPU measures peak extra memory too, in processes of their own.
        quick: a small pair and two rounds, to see that everything runs; its figures judge nothing.
        output: JSON file to write, its folder is made; by default runs/bench/logps.json, on a card logps_cuda.json.

    Raises:
        ValueError: one sentence, when an argument does not fit. RuntimeError: when the measuring process broke.
    """
    device = place.chosen(device)
    asked = {"tokens": tokens, "dim": dim, "words": words}
    settings = SIZES[device] | {name: value for name, value in asked.items() if value is not None}
    settings |= {"rounds": rounds, "threads": harness.usable_cores() if threads is None else threads}
    settings |= QUICK if quick else {}
    harness.refuse_below_one(settings)
    if settings["tokens"] % 2:
        raise ValueError(f"tokens is {settings['tokens']}: give an even number, half of them for each answer.")
    settings |= {"memory": memory, "device": device, "dtype": PRECISION[device]}
    output = Path(output or f"runs/bench/logps{'_cuda' * (device == 'cuda')}.json")
    return harness.run_apart("minilib.bench.logps", settings, output)


def measure(settings: dict[str, Any], at: Place | None = None) -> dict[str, Any]:
    """Check, time and weigh the methods; settings, machine, errors, samples, ratios, peaks and bars as a plain dict.

    `at` is where to measure, by default the place of the device in `settings`.
    """
    torch.set_num_threads(settings["threads"])
    at = at or place.named(settings["device"])
    on_card, dtype = at.unit == "card", DTYPES[settings["dtype"]]
    found, skipped = ways.available("cuda" if on_card else "cpu")
    free = at.free_bytes()
    for method in list(found):
        need = 4 * settings["tokens"] * settings["words"] * method.matrices
        if need > 0.9 * free:
            skipped[method.name] = f"it needs about {need / 1e9:.1f} GB and {free / 1e9:.1f} GB are free."
            found.remove(method)
    errors = _errors(found, skipped, dtype, at.device)
    document = {"benchmark": "logps", "settings": settings, "unit": at.unit}
    document |= {"machine": machine.describe() | ({"card": at.card} if at.card else {}), "error": errors}
    document |= _time(found, settings, at, skipped) | {"skipped": skipped}
    if on_card:
        document["memory"] = _read_peaks(document["rounds"], document["card"])
    else:
        document["memory"] = _memory(found, settings) if settings["memory"] else {}
    return document | {"bars": logps_bars.bars(document)}


def table(document: dict[str, Any]) -> str:
    """The figures and the bars as plain text."""
    return logps_bars.report(document, tables.plain)


def error(method: Method, dtype: torch.dtype = torch.float32, device: str = "cpu") -> float:
    """Largest relative error of the loss and of both gradients, by norm, against dense log-probabilities in fp64."""
    given = ways.make_inputs(**GATE, dtype=dtype, device=device)
    exact = ways.Inputs(given.hidden.double(), given.weight.double(), given.labels)
    judge = Method("fp64", lambda x: ways.pair_loss(torch.log_softmax(x.hidden @ x.weight.T, 1)[_at(x)]), 3, 4)
    outcomes = []
    for way, inputs in ((judge, exact), (method, given)):
        x = ways.fresh(inputs, method.frozen)
        outcomes.append([way.step(x), x.hidden.grad, *([] if method.frozen else [x.weight.grad])])
    return max(((mine - true).norm() / true.norm()).item() for true, mine in zip(*outcomes))


def _at(x) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(len(x.labels), device=x.labels.device), x.labels


def _errors(found: list[Method], skipped: dict[str, str], dtype: torch.dtype, device: str) -> dict[str, float]:
    """The error of every method; what is wrong, or cannot be run, goes from `found` to `skipped`."""
    errors = {}
    for method in list(found):
        try:
            errors[method.name] = error(method, dtype, device)
        except Exception as failure:  # a peer may fail in any way; the run goes on and the report says so
            skipped[method.name] = f"it failed ({type(failure).__name__}: {harness.first_line(failure)})."
            found.remove(method)
            continue
        if not errors[method.name] <= TOLERANCE[dtype]:  # NaN is within no tolerance
            skipped[method.name] = f"it differs from fp64 by {errors[method.name]:.1e}, so it was not timed."
            found.remove(method)
    return errors


def _time(found: list[Method], settings: dict[str, Any], at: Place, skipped: dict[str, str]) -> dict[str, Any]:
    sizes = [settings[name] for name in ("tokens", "dim", "words")]
    options = {"dtype": DTYPES[settings["dtype"]], "device": at.device}
    steps, frozen = {m.name: m.step for m in found}, {m.name: m.frozen for m in found}
    done = []
    with tqdm(total=len(steps) * (settings["rounds"] + 1), desc="logps", unit="call", leave=False) as bar:
        for number in range(settings["rounds"] + 1):
            inputs = ways.make_inputs(*sizes, seed=number, **options)
            again = lambda name, inputs=inputs: ways.fresh(inputs, frozen[name])  # noqa: E731
            if number == 0:
                failed = harness.warm_up(steps, again, bar, at.clock)[1]
            else:
                done.append(harness.one_round(steps, again, number, bar, at.clock))
                failed = done[-1].failed
            skipped |= failed
            steps = {name: step for name, step in steps.items() if name not in failed}
    base = {m.name: FROZEN if m.frozen else "dense" for m in found if m.name in steps}
    return {
        at.unit: {name: harness.spread([r.samples[name].spent for r in done]) for name in steps},
        "wall": {name: harness.spread([r.samples[name].wall for r in done]) for name in steps},
        "ratio": {name: harness.spread(harness.ratios(done, name, base[name])) for name in steps},
        "rounds": [{name: sample._asdict() for name, sample in r.samples.items()} for r in done],
        "others": [r.others for r in done],
    }


def _read_peaks(rounds: list[dict[str, Any]], names: dict[str, Any]) -> dict[str, int]:
    """Peak extra bytes that a card's clock has read: medians over the rounds."""
    return {name: int(statistics.median(r[name]["peak"] for r in rounds)) for name in names}


def _memory(found: list[Method], settings: dict[str, Any]) -> dict[str, int]:
    """Peak extra bytes of one call of each method, gradients included."""
    sizes = {name: settings[name] for name in ("tokens", "dim", "words")}
    peaks = {}
    for method in tqdm(found, desc="memory", unit="process", leave=False):
        setup = _SETUP.format(name=method.name, **sizes)
        peaks[method.name] = measure_peak(setup, "method.step(inputs)", threads=settings["threads"])
    return peaks
