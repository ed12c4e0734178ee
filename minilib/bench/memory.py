"""Peak extra memory of one forward and backward pass, each measurement in a fresh process.

The features exist before the measurement and do not count. The gradients of both features, 2 b d numbers, are made
during it and do; every method has to return them, so `besides` is what remains without them.

How a peak is read: `minilib.teaching.memory.measure_peak`.
"""

from minilib.bench import machine, methods
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


def meant_for(found: list[Method], batch: int) -> list[Method]:
    """Those of `METHODS` that are found and whose matrices are not out of proportion at this batch."""
    return [m for m in found if m.name in METHODS and (batch <= LARGEST_SQUARE or m.matrices == 0)]


def peak_bytes(method: Method, batch: int, dim: int, scale: float, threads: int) -> dict[str, int]:
    """Extra bytes of one call at its highest point: `peak`, the `gradients` in it, and what remains `besides`.

    RuntimeError of one sentence when the method would not fit into memory, or when its process failed.
    """
    refused = methods.split_by_memory([method], batch, dim, machine.available_bytes())[1]
    if refused:
        raise RuntimeError(refused[method.name].rstrip("."))
    setup = _SETUP.format(name=method.name, batch=batch, dim=dim, scale=scale, warm=min(64, batch))
    peak = measure_peak(setup, "step(inputs)", threads=threads)
    gradients = 2 * batch * dim * 4  # fp32
    return {"peak": peak, "gradients": gradients, "besides": peak - gradients}
