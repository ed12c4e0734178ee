"""Peak extra memory of one forward and backward pass, each measurement in a fresh process.

The features exist before the measurement and do not count. The gradients of both features, 2 b d numbers, are made
during it and do; every method has to return them, so `besides` is what remains without them.

How a peak is read: `minilib.teaching.memory.measure_peak`. Proven in tests/test_bench_is_honest.py.
"""

from typing import Any

from minilib.bench.methods import Method
from minilib.teaching.memory import measure_peak

METHODS = ("dense", "tiled", "open_clip ClipLoss")
LARGEST_SQUARE = 16_384  # beyond it, only methods without a b x b matrix are measured

_SETUP = """
from minilib.bench import methods, peers
known = methods.ours() + peers.available(({name!r},))[0]
step = next(method.step for method in known if method.name == {name!r})
step(methods.make_inputs({warm}, {dim}, {scale}))
inputs = methods.make_inputs({batch}, {dim}, {scale})
"""


def peaks(methods: list[Method], batches: list[int], dim: int, scale: float, threads: int) -> list[dict[str, Any]]:
    """What to measure, as rows without figures yet: each of `METHODS` at each batch it is meant for."""
    chosen = [method for method in methods if method.name in METHODS]
    sizes = [(method.name, batch) for batch in batches for method in chosen if _meant_for(method, batch)]
    return [{"method": name, "batch": batch, "dim": dim, "scale": scale, "threads": threads} for name, batch in sizes]


def measure(method: str, batch: int, dim: int, scale: float, threads: int) -> dict[str, int]:
    """Extra bytes of one call at its highest point: `peak`, the `gradients` in it, and what remains `besides`."""
    setup = _SETUP.format(name=method, batch=batch, dim=dim, scale=scale, warm=min(64, batch))
    peak = measure_peak(setup, "step(inputs)", threads=threads)
    gradients = 2 * batch * dim * 4  # fp32
    return {"peak": peak, "gradients": gradients, "besides": peak - gradients}


def _meant_for(method: Method, batch: int) -> bool:
    return batch <= LARGEST_SQUARE or method.matrices == 0
