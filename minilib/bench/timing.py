"""The time of every method at one batch size: warm-up, interleaved rounds, and what they amount to.

How the rounds are timed is in `harness`, what the share of the product rate means in `machine`. Ratios are taken to
the bases of the bars that compute the same loss. Proven in tests/test_bench_is_honest.py.
"""

from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from minilib.bench import bars, harness, machine, methods
from minilib.bench.harness import Round
from minilib.bench.methods import Method

PRODUCT = "torch.mm on tiles"  # measured as one more method of each round
DENSE = {"clip": "dense", "siglip": "dense SigLIP"}


def time_batch(
    found: list[Method], batch: int, dim: int, scale: float, rounds: int, keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Time the methods that fit into memory; `keep` receives the timing, summary included, after every round."""
    fitting, skipped = methods.split_by_memory(found, batch, dim, machine.available_bytes())
    multiply, operations = machine.product_step(batch, dim)
    steps = {PRODUCT: multiply, **{method.name: method.step for method in fitting}}
    timing: dict[str, Any] = {"batch": batch, "skipped": skipped}
    done: list[Round] = []
    with tqdm(total=len(steps) * (rounds + 1), desc=f"b = {batch:,}", unit="call", leave=False) as bar:
        first, failed = harness.warm_up(steps, lambda: methods.make_inputs(batch, dim, scale), bar)
        skipped |= failed
        timing["first_call"] = {name: sample.wall for name, sample in first.items()}
        steps = {name: step for name, step in steps.items() if name in first}
        for number in range(1, rounds + 1):
            inputs = methods.make_inputs(batch, dim, scale, seed=number)
            done.append(harness.one_round(steps, lambda inputs=inputs: methods.fresh(inputs), number, bar))
            timing |= summarise(done, fitting, batch, dim, operations)
            keep(timing)
    return timing


def summarise(done: list[Round], fitting: list[Method], batch: int, dim: int, operations: int) -> dict[str, Any]:
    """Medians, spreads, ratios and shares of the rounds so far, beside every raw sample.

    `operations` are the floating-point operations of one `PRODUCT` sample.
    """
    rates = [operations / r.samples[PRODUCT].cpu / 1e9 for r in done]  # GFLOP per CPU second
    timed = [method for method in fitting if method.name in done[0].samples]
    own, others = sum(s.cpu for r in done for s in r.samples.values()), sum(r.others for r in done)
    return {
        "rounds": [{name: s._asdict() for name, s in r.samples.items()} for r in done],
        "summary": {method.name: _summary(method, done, rates, 2 * batch**2 * dim / 1e9) for method in timed},
        "product_rate": harness.spread(rates),
        "others": others / (own + others),
    }


def _summary(method: Method, done: list[Round], rates: list[float], product: float) -> dict[str, Any]:
    samples = [r.samples[method.name] for r in done]
    shares = [method.products * product / s.cpu / rate for s, rate in zip(samples, rates)]
    bases = {DENSE[method.loss], *(bar.base for bar in bars.RATIOS if bar.method == method.name)}
    ratios = {base: harness.spread(harness.ratios(done, method.name, base)) for base in sorted(bases)}
    return {
        "cpu": harness.spread([s.cpu for s in samples]),
        "wall": harness.spread([s.wall for s in samples]),
        "dense": DENSE[method.loss],
        "ratios": {base: ratio for base, ratio in ratios.items() if ratio},
        "products": method.products,
        # A share of the fp32 rate says nothing about products in bf16.
        "share": None if method.tolerance == methods.ROUNDED else harness.spread(shares),
    }
