"""The time of contrastive losses, cell by cell: a cell is one batch at one width.

    rate   = matmuls 2 b^2 d / t        share, floor = its own, the fewest matmuls 2 b^2 d / (t rate of torch.mm)

where
    t          seconds that one call spends, see `harness`
    torch.mm   in the dtype of the method's features, measured as one more method of each round (`device`)

A cell that is measured once warms up at a smaller batch, at which kernels are compiled and tuned.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from minilib.bench import baselines, harness, targets
from minilib.bench.device import NAMES, Device
from minilib.bench.harness import Method, Round

LARGEST_FOR_ALL = 65_536  # beyond it the fused methods are alone
LONG_RUN = ("fused bf16", "fused bf16, forward", "fused SigLIP bf16")
DENSE = {"clip": "dense", "siglip": "dense SigLIP"}


class Cell(NamedTuple):
    """One batch at one width, and the methods in it, None for all."""

    batch: int
    dim: int
    names: Sequence[str] | None = None
    warm: int | None = None  # the batch of the untimed call where it is another one; then one round is timed

    def chosen(self, found: list[Method]) -> list[Method]:
        """Those of `found` that this cell is for."""
        return [method for method in found if self.names is None or method.name in self.names]


def cells(settings: dict[str, Any]) -> list[Cell]:
    """The cells of a run: those that it names, or its batches at its width."""
    if "cells" in settings:
        return [Cell(*cell) for cell in settings["cells"]]
    alone = LONG_RUN if settings["device"] != "cpu" else None
    return [Cell(b, settings["dim"], alone if b > LARGEST_FOR_ALL else None) for b in settings["batches"]]


def narrow(method: Method, dim: int) -> str:
    """A sentence for a width that a method does not take, else nothing."""
    asked = f"it takes widths that are multiples of {method.multiple} and d is {dim}: choose such a width."
    return asked * bool(dim % method.multiple)


def large(method: Method, batch: int, dim: int, free: int) -> str:
    """A sentence for a method that does not fit into nine tenths of `free` bytes, else nothing."""
    need = method.matrices * 4 * batch**2 + 8 * 4 * batch * dim  # fp32 matrices; features, gradients, copies
    return harness.too_large(need, free, ": choose a smaller batch.")


def time_cell(found: list[Method], cell: Cell, settings: dict[str, Any], device: Device) -> Iterator[dict[str, Any]]:
    """Time the methods that fit; yields the timing of this cell so far, summary included, after every round."""
    free, (batch, dim) = device.free_bytes(), cell[:2]
    fitting, skipped = harness.split(cell.chosen(found), lambda m: narrow(m, dim) or large(m, batch, dim, free))
    dtypes = {method.name: method.dtype for method in fitting}
    multiply = {dtype: device.product_step(batch, dim, dtype) for dtype in dict.fromkeys(dtypes.values())}
    steps = {product_name(dtype): call for dtype, (call, _) in multiply.items()} | {m.name: m.step for m in fitting}
    operations = {dtype: count for dtype, (_, count) in multiply.items()}

    def draw(number: int) -> Callable[[str], baselines.Inputs | None]:
        # The same numbers for all methods of one dtype, new leaves for each; torch.mm has matrices of its own.
        size, seed = cell.warm if cell.warm and not number else batch, settings.get("seed", 0) + number
        make = partial(baselines.make_inputs, size, dim, settings["scale"], seed=seed, device=device.name)
        numbers = {dtype: make(dtype=dtype) for dtype in operations}
        return lambda name: baselines.fresh(numbers[dtypes[name]]) if name in dtypes else None

    timing, done = {"batch": batch, "dim": dim, "skipped": skipped}, []
    rounds = 1 if cell.warm else settings["rounds"]
    for this in harness.interleave(steps, draw, rounds, device.clock, f"b = {batch:,}"):
        timing["skipped"] |= this.failed
        if "first_call" in timing:
            done.append(this)
            yield timing | summarise(done, fitting, batch, dim, operations, device.unit)
        else:
            timing["first_call"] = {name: sample.wall for name, sample in this.samples.items()}


def product_name(dtype: torch.dtype) -> str:
    """The name under which torch.mm takes part in the rounds."""
    return f"torch.mm {NAMES[dtype]}"


def summarise(
    done: list[Round], fitting: list[Method], batch: int, dim: int, operations: dict[torch.dtype, int],
    unit: str = "cpu",
) -> dict[str, Any]:  # fmt: skip
    """Medians, spreads, ratios and shares of the rounds so far, next to every raw sample.

    `operations` are the floating-point operations of one sample of torch.mm in each dtype.
    """
    samples, product = [r.samples for r in done], 2 * batch**2 * dim / 1e9
    rates = {
        dtype: [count / each[product_name(dtype)].spent / 1e9 for each in samples]  # GFLOP per second spent
        for dtype, count in operations.items()
        if product_name(dtype) in samples[-1]
    }
    timed = [method for method in fitting if method.name in samples[-1]]  # a method that fails is not called again
    raw = {"spent": unit, "wall": "wall", "peak": "peak"}
    return {
        "rounds": [
            {n: {raw[k]: v for k, v in s._asdict().items() if v is not None} for n, s in each.items()}
            for each in samples
        ],
        "summary": {m.name: _summary(m, done, rates.get(m.dtype), product, unit) for m in timed},
        "product_rates": {NAMES[dtype]: harness.spread(values) for dtype, values in rates.items()},
        "others": harness.share_of_others(done),
    }


def _summary(method: Method, done: list[Round], rates: list[float] | None, product: float, unit: str) -> dict[str, Any]:
    dense, samples, count = DENSE[method.loss], [r.samples[method.name] for r in done], method.products
    bases = {dense, *(t.base for t in targets.CONTRASTIVE[unit] if t.kind == "ratio" and t.loss == method.loss)}
    alike = sorted(bases) if method.gradients == 2 else []  # half the work is no faster way to do all of it
    ratios = {base: harness.spread(harness.ratios(done, method.name, base)) for base in alike}
    own = [count * product / sample.spent for sample in samples] if count else []  # GFLOP per second spent
    # A share of the fp32 rate says nothing about matmuls in bf16.
    mixed = method.dtype == torch.float32 and method.tolerance == baselines.ROUNDED
    shares = [mine / rate for mine, rate in zip(own, rates)] if rates and not mixed else []
    return {
        unit: harness.spread([sample.spent for sample in samples]),
        "wall": harness.spread([sample.wall for sample in samples]),
        "dense": dense,
        "ratios": {base: ratio for base, ratio in ratios.items() if ratio},
        "products": count,
        "rate": harness.spread(own),
        "share": harness.spread(shares),
        "floor": harness.spread([share * method.floor / count for share in shares]),
    }


def peaks(timing: dict[str, Any], found: list[Method]) -> list[dict[str, Any]]:
    """Rows of the memory table, where the clock of the rounds has read the peaks: medians over the rounds."""
    read = [m for m in found if m.name in timing["summary"] and "peak" in timing["rounds"][0][m.name]]
    medians = harness.peaks(timing["rounds"], [method.name for method in read])
    return [memory_row(method, timing["batch"], timing["dim"], medians[method.name]) for method in read]


def memory_row(method: Method, batch: int, dim: int, peak: int) -> dict[str, Any]:
    """A peak, the feature gradients in it, and what remains `besides`: every method has to return the gradients."""
    gradients = method.gradients * batch * dim * 4  # fp32
    row = {"method": method.name, "batch": batch, "dim": dim, "per_element": peak / (batch * dim)}
    return row | {"peak": peak, "gradients": gradients, "besides": peak - gradients}
