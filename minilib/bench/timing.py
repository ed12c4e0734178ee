"""The time of every method at one batch size: warm-up, interleaved rounds, and what they amount to.

    rate   = products 2 b^2 d / t                     share = rate / rate of torch.mm
    floor  = floor products 2 b^2 d / (t rate of torch.mm)

where
    t          seconds that one call spends, see `harness`
    products   those that the method itself takes; floor products, the fewest in O(b) memory (`methods`)
    torch.mm   in the dtype of the method's features, measured as one more method of each round (`machine`)

A method that multiplies in another precision than its features' is held against the rate of its features: what the
machine could have done with them. Ratios are taken to the dense loss of the same kind and to the bases of the bars.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from tqdm import tqdm

from minilib.bench import bars, harness, methods
from minilib.bench.harness import Round, Sample
from minilib.bench.methods import Inputs, Method
from minilib.bench.on_card import NAMES
from minilib.bench.place import Place
from minilib.bench.plan import Budget, Cell

DENSE = {"clip": "dense", "siglip": "dense SigLIP"}


def product_name(dtype: torch.dtype) -> str:
    """The name under which torch.mm takes part in the rounds."""
    return f"torch.mm {NAMES[dtype]}"


def time_cell(
    found: list[Method], cell: Cell, settings: dict[str, Any], place: Place, budget: Budget,
    keep: Callable[[dict[str, Any]], None],
) -> None:  # fmt: skip
    """Time the methods that fit into memory; `keep` receives the timing, summary included, after every round."""
    fitting, skipped = methods.split_by_width(cell.chosen(found), cell.dim)
    fitting, too_large = methods.split_by_memory(fitting, cell.batch, cell.dim, place.free_bytes())
    dtypes = {method.name: method.dtype for method in fitting}
    products = {dtype: place.product_step(cell.batch, cell.dim, dtype) for dtype in dict.fromkeys(dtypes.values())}
    steps = {product_name(dtype): multiply for dtype, (multiply, _) in products.items()}
    steps |= {method.name: method.step for method in fitting}
    timing: dict[str, Any] = {"batch": cell.batch, "dim": cell.dim, "skipped": skipped | too_large}
    with tqdm(
        total=len(steps) * (settings["rounds"] + 1), desc=f"b = {cell.batch:,}", unit="call", leave=False, disable=None
    ) as bar:
        inputs = _inputs_of_round(cell, settings["scale"], dtypes, place.device, seed=0)
        first, failed = harness.warm_up(steps, inputs, bar, place.clock)
        timing["skipped"] |= failed
        timing["first_call"] = {name: sample.wall for name, sample in first.items()}
        steps = {name: step for name, step in steps.items() if name in first}
        operations = {dtype: count for dtype, (_, count) in products.items()}
        done: list[Round] = []
        while len(done) < settings["rounds"]:
            started, number = time.perf_counter(), len(done) + 1
            inputs = _inputs_of_round(cell, settings["scale"], dtypes, place.device, seed=number)
            done.append(harness.one_round(steps, inputs, number, bar, place.clock))
            timing["skipped"] |= done[-1].failed
            steps = {name: step for name, step in steps.items() if name in done[-1].samples}
            keep(timing | summarise(done, fitting, cell.batch, cell.dim, operations, place.unit))
            if not budget.allows(time.perf_counter() - started, number):
                break


def _inputs_of_round(
    cell: Cell, scale: float, dtypes: dict[str, torch.dtype], device: str, seed: int
) -> Callable[[str], Inputs | None]:
    """Fresh leaves for each method, of the same numbers for all methods of one dtype; None for torch.mm."""
    options = {"seed": seed, "device": device}
    numbers = {
        dtype: methods.make_inputs(cell.batch, cell.dim, scale, dtype=dtype, **options)
        for dtype in set(dtypes.values())
    }
    return lambda name: methods.fresh(numbers[dtypes[name]]) if name in dtypes else None


def summarise(
    done: list[Round],
    fitting: list[Method],
    batch: int,
    dim: int,
    operations: dict[torch.dtype, int],
    unit: str = "cpu",
) -> dict[str, Any]:
    """Medians, spreads, ratios and shares of the rounds so far, beside every raw sample.

    `operations` are the floating-point operations of one sample of torch.mm in each dtype.
    """
    rates = {
        dtype: [count / r.samples[product_name(dtype)].spent / 1e9 for r in done]  # GFLOP per second spent
        for dtype, count in operations.items()
        if product_name(dtype) in done[-1].samples
    }
    timed = [method for method in fitting if method.name in done[-1].samples]  # a method that fails is not called again
    own, others = sum(r.own for r in done), sum(r.others for r in done)
    product = 2 * batch**2 * dim / 1e9
    return {
        "rounds": [{name: _sample(s, unit) for name, s in r.samples.items()} for r in done],
        "summary": {m.name: _summary(m, done, rates.get(m.dtype), product, unit) for m in timed},
        "product_rates": {NAMES[dtype]: harness.spread(values) for dtype, values in rates.items()},
        "others": others / (own + others) if own + others else 0.0,
    }


def peaks(timing: dict[str, Any], fitting: list[Method]) -> list[dict[str, Any]]:
    """Rows of the memory table, where the clock of the rounds has read the peaks: medians over the rounds."""
    rows, size = [], timing["batch"] * timing["dim"]
    for method in fitting:
        read = [r[method.name]["peak"] for r in timing["rounds"] if "peak" in r.get(method.name, {})]
        if read:
            peak, gradients = int(statistics.median(read)), method.gradients * size * 4  # fp32
            row = {"method": method.name, "batch": timing["batch"], "dim": timing["dim"], "per_element": peak / size}
            rows.append(row | {"peak": peak, "gradients": gradients, "besides": peak - gradients})
    return rows


def _summary(method: Method, done: list[Round], rates: list[float] | None, product: float, unit: str) -> dict[str, Any]:
    samples = [r.samples[method.name] for r in done]
    own = [method.products * product / s.spent for s in samples]  # GFLOP per second spent
    bases = {DENSE[method.loss], *(bar.base for bar in bars.RATIOS[unit] if bar.base and bar.loss == method.loss)}
    alike = sorted(bases) if method.gradients == 2 else []  # half the work is no faster way to do all of it
    ratios = {base: harness.spread(harness.ratios(done, method.name, base)) for base in alike}
    # A share of the fp32 rate says nothing about products in bf16.
    mixed = rates is None or (method.dtype == torch.float32 and method.tolerance == methods.ROUNDED)
    shares = None if mixed else [mine / rate for mine, rate in zip(own, rates)]
    return {
        unit: harness.spread([s.spent for s in samples]),
        "wall": harness.spread([s.wall for s in samples]),
        "dense": DENSE[method.loss],
        "ratios": {base: ratio for base, ratio in ratios.items() if ratio},
        "products": method.products,
        "rate": harness.spread(own),
        "share": shares and harness.spread(shares),
        "floor": shares and harness.spread([share * method.floor / method.products for share in shares]),
    }


def _sample(sample: Sample, unit: str) -> dict[str, Any]:
    peak = {} if sample.peak is None else {"peak": sample.peak}
    return {unit: sample.spent, "wall": sample.wall} | peak
