"""Log-probabilities over a vocabulary and a preference loss on them, side by side in one run: time, memory, exactness.

    ratio(method) = median over rounds of  t(method) / t(dense),   frozen heads against dense with a frozen head

where
    t   seconds of loss and backward on one pair of n tokens, hidden states (n, d), head (V, d): CPU seconds in fp32, or
        on a CUDA GPU seconds between two events, in bf16 and at the size of a large model's head
"""

from pathlib import Path
from typing import Any

import torch

from minilib.bench import correctness, harness, report, targets
from minilib.bench import logps_methods as ways
from minilib.bench.device import DTYPES, Device, chosen, named
from minilib.bench.harness import Method

SIZES = {"cpu": {"tokens": 8192, "dim": 512, "words": 32_768, "dtype": "fp32"}}
SIZES["cuda"] = targets.LOGPS_GPU_SIZE | {"dtype": "bf16"}
GATE = {"tokens": 256, "words": 2048, "dim": 64}
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
BLURRED = 5e-2
QUICK = {"tokens": 512, "dim": 64, "words": 2048, "rounds": 2}

_SETUP = """
from minilib.bench import logps_methods as ways
method = next(m for m in ways.available()[0] if m.name == {name!r})
method.step(ways.fresh(ways.make_inputs(64, {dim}, 64), method.frozen))
inputs = ways.fresh(ways.make_inputs({tokens}, {dim}, {words}), method.frozen)
"""


def bench_logps(
    tokens: int | None = None, dim: int | None = None, words: int | None = None, rounds: int = 5,
    threads: int | None = None, device: str = "auto", memory: bool = True, quick: bool = False,
    output: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Time loss and gradients of one long pair over a large vocabulary; return the document written as JSON.

    Args:
        tokens: answer tokens of the pair, an even number; by default 8,192.
        dim: width of the hidden states, by default 512, on a GPU 4,096.
        words: entries of the vocabulary, by default 32,768, on a GPU 128,256.
        rounds: timed calls of each method; one more warms it up.
        threads: threads to compute with; by default one for each usable core.
        device: "cpu", "cuda", or "auto" for the GPU if there is one.
        memory: whether a run on a CPU measures peak extra memory too, in processes of their own.
        quick: a small pair and two rounds, to see that everything runs; its figures judge nothing.
        output: JSON file to write, its folder is made; by default runs/bench/logps.json, on a GPU logps_cuda.json.

    Raises:
        ValueError: one sentence, when an argument does not fit. RuntimeError: when the measuring process broke.
    """
    device = chosen(device)
    asked = {"tokens": tokens, "dim": dim, "words": words, "rounds": rounds, "threads": threads}
    settings = harness.settings_of(SIZES[device], asked, QUICK if quick else None)
    harness.validate_at_least_one(settings, *asked)
    if settings["tokens"] % 2:
        raise ValueError(f"tokens is {settings['tokens']}: give an even number, half of them for each answer.")
    output = Path(output or f"runs/bench/logps{'_cuda' * (device == 'cuda')}.json")
    return harness.run_apart("minilib.bench.logps", settings | {"memory": memory, "device": device}, output)


def measure(settings: dict[str, Any], output: str | None = None, at: Device | None = None) -> dict[str, Any]:
    """Check, time and weigh the methods `at` a device, by default that of the settings; the document as JSON has it."""
    at, dtype = at or named(settings["device"]), DTYPES[settings["dtype"]]
    document = harness.opened("logps", settings, at)
    sizes, free = {name: settings[name] for name in ("tokens", "dim", "words")}, at.free_bytes()
    found, missing = ways.available("cuda" if at.unit == "gpu" else "cpu")
    found = [method for method in found if method.name in settings.get("names", (method.name,))]
    matrix = 4 * sizes["tokens"] * sizes["words"]  # bytes of the fp32 logits
    found, large = harness.split(found, lambda method: harness.too_large(matrix * method.matrices, free, "."))
    seed, gate = settings.get("seed", 0), {"seed": settings.get("seed", 0), **settings.get("gate", {})}
    found, wrong = harness.split(found, lambda method: _complaint(method, dtype, at.name, gate, document["error"]))
    document["skipped"] = missing | large | wrong
    frozen = {method.name: method.frozen for method in found}

    def draw(number: int):
        inputs = ways.make_inputs(**sizes, seed=seed + number, dtype=dtype, device=at.name)
        return lambda name: ways.fresh(inputs, frozen[name])

    base = {name: targets.FROZEN if frozen[name] else "dense" for name in frozen}
    harness.run_bench(document, {method.name: method.step for method in found}, base, draw, at.clock)
    setup = lambda name: _SETUP.format(name=name, **sizes)  # noqa: E731
    document["memory"] = harness.peaks_of(document, setup, "method.step(inputs)")
    document["bars"] = targets.logps(document)
    return harness.finish(document, output, report.logps(document, report.plain))


def error(method: Method, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0, **sizes) -> float:
    """Largest relative error of the loss and of both gradients, by norm, against dense log-probabilities in fp64."""
    given = ways.make_inputs(**GATE | sizes, seed=seed, dtype=dtype, device=device)
    exact = ways.Inputs(given.hidden.double(), given.weight.double(), given.labels)
    outcomes = []
    for way, inputs in ((method, given), (ways.judge_of(method), exact)):
        x = ways.fresh(inputs, method.frozen)
        with correctness.poisoned():
            loss = way.step(x)
        outcomes.append([loss, x.hidden.grad, *([] if method.frozen else [x.weight.grad])])
    return correctness.largest(*outcomes)


def _complaint(method: Method, dtype: torch.dtype, device: str, gate: dict[str, int], errors: dict[str, float]) -> str:
    """A sentence for a method that is wrong or cannot be run; the error goes to `errors`."""
    if method.loss == "none":
        return ""
    try:
        errors[method.name] = error(method, dtype, device, **gate)
    except Exception as failure:  # a peer may fail in any way; the run goes on and the report says so
        return f"it failed ({harness.describe(failure)})."
    ours = method.name.startswith(("tiled", "fused", "margin"))  # the others may round their logits, or sum in bf16
    allowed = TOLERANCE[dtype] if ours or dtype != torch.bfloat16 else BLURRED
    wrong = not errors[method.name] <= allowed  # NaN is within no tolerance
    return f"it differs from fp64 by {errors[method.name]:.1e}, so it was not timed." * wrong
