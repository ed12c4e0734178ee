"""Predict bytes on paper, then measure them: what autograd keeps, and what a process adds at its peak.

Extra memory of one loss, forward and backward, in addition to the two feature matrices it is given:

    dense   4 b^2 + b d        numbers
    tiled   2 b d + 2 p q + 2 p d + 8 b + cache

where
    b, d    pairs and feature width                p, q    rows and columns of a tile
    cache   numbers in the tiles kept for the backward pass (0 here; `clip_loss` takes up to 256 MiB by default)

The dense 4 are two matrices of log-probabilities, one per direction, that wait for the backward pass, and two gradient
matrices made there.
(Inf-CL's Table 1 shows the same: its dense losses take about 4.1 copies of the logits.)

Two measurements. `saved_bytes` counts what waits between forward and backward. `measure_loss_peak` runs
a loss in a fresh process and reads by how much its resident memory rose at the highest point (see `peak.py`).

Taught in notebooks/02_measure_where_memory_goes.ipynb.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from minilib.kernels.contrastive_tiled import TILE_COLS, TILE_ROWS
from minilib.teaching.peak import measure_peak

BACKENDS = ("dense", "tiled")
LOSSES = ("clip", "siglip")


def predict_bytes(
    batch: int,
    dim: int,
    *,
    backend: str = "dense",
    dtype_bytes: int = 4,
    tile_rows: int = TILE_ROWS,
    tile_cols: int = TILE_COLS,
    cache_bytes: float = 0,
) -> dict[str, int]:
    """Bytes that `clip_loss` adds, forward and backward, as named parts and their `total` (equations above).

    `cache_bytes` is that of `clip_loss`, a number and not "auto": the loss keeps whole tiles, at most all of them. The
    smallest batches differ: what the framework itself needs, about a megabyte, is not in the sum.
    """
    _positive(batch=batch, dim=dim, dtype_bytes=dtype_bytes, tile_rows=tile_rows, tile_cols=tile_cols)
    _one_of("backend", backend, BACKENDS)
    matrix = dense_matrix_bytes(batch, dtype_bytes) // 4
    features = batch * dim * dtype_bytes
    if backend == "dense":
        parts = {
            "log-probabilities, image to text": matrix,
            "log-probabilities, text to image": matrix,
            "gradient of the log-probabilities": matrix,
            "gradient of the logits": matrix,
            "scaled features": features,
        }
    else:
        rows, cols = min(tile_rows, batch), min(tile_cols, batch)
        tile, tiles = rows * cols * dtype_bytes, -(-batch // rows) * -(-batch // cols)
        parts = {
            "gradients of both features": 2 * features,
            "two tile buffers": 2 * tile,
            "scaled rows, one block and the next": 2 * rows * dim * dtype_bytes,
            "sums and positives": 8 * batch * dtype_bytes,
            "cached tiles": int(min(cache_bytes, tiles * tile) // tile) * tile,
        }
    return {**parts, "total": sum(parts.values())}


def saved_numbers(batch: int, dim: int) -> int:
    """Numbers that the dense `clip_loss` keeps for its backward pass, without the features: 2 b^2 + b d.

    Two matrices of log-probabilities and the scaled image features. `saved_bytes` measures the same and finds some
    2 b numbers more (the labels), which do not matter next to b^2.
    """
    _positive(batch=batch, dim=dim)
    return 2 * batch * batch + batch * dim


def dense_matrix_bytes(batch: int, dtype_bytes: int = 4) -> int:
    """Bytes of the four `(b, b)` matrices of the dense loss: 16 b^2 in fp32."""
    _positive(batch=batch, dtype_bytes=dtype_bytes)
    return 4 * batch * batch * dtype_bytes


def largest_dense_batch(memory_bytes: int, dtype_bytes: int = 4) -> int:
    """The largest batch whose four `(b, b)` matrices fit into `memory_bytes`: the square root, rounded down."""
    _positive(dtype_bytes=dtype_bytes)
    return math.isqrt(int(memory_bytes) // (4 * dtype_bytes))


def saved_bytes(fn: Callable[[], Tensor], *, besides: Iterable[Tensor] = ()) -> int:
    """Bytes that autograd keeps for the backward pass of `fn()`, which returns a loss and runs no backward itself.

    Each storage counts once, however many nodes saved it; storages of the tensors in `besides` (the inputs that you
    hold anyway) do not count.
    """
    held = {_storage(t).data_ptr() for t in besides}
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[_storage(tensor).data_ptr()] = _storage(tensor)  # held until the end, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fn()
    return sum(storage.nbytes() for address, storage in kept.items() if address not in held)


def measure_loss_peak(
    batch: int,
    dim: int,
    backend: str,
    *,
    loss: str = "clip",
    cache_bytes: float = 0,
    tile_size: int | None = None,
    grad_dtype: str | None = None,
    scale: float = 14.3,
    threads: int = 1,
) -> int:
    """Measured extra bytes of one loss, forward and backward, on `(batch, dim)` fp32 features, in a fresh process.

    The features exist before the measurement and do not count; their two gradients are made during it and do.
    `cache_bytes` and `grad_dtype` ("bfloat16") are those of `clip_loss`; leave them alone for `loss="siglip"`.
    """
    _positive(batch=batch, dim=dim, threads=threads)
    _one_of("backend", backend, BACKENDS)
    _one_of("loss", loss, LOSSES)
    extra = (
        f", cache_bytes=float({str(float(cache_bytes))!r}), grad_dtype={'torch.' + grad_dtype if grad_dtype else None}"
    )
    options = f"backend={backend!r}, tile_size={tile_size!r}{extra if loss == 'clip' else ''}"
    call = f"{loss}_loss(img, txt, {scale!r}, {'-10.0, ' if loss == 'siglip' else ''}{options}).backward()"
    warm = min(1024, -(-batch // 2))  # whole tiles, for which the matrix library makes its own buffers once
    setup = _LOSS_SOURCE.format(batch=batch, dim=dim, warm=warm, call=call)
    return measure_peak(setup, f"once({batch})", threads=threads)


def format_bytes(n: float) -> str:
    """Bytes for a reader, decimal units, two or three digits: `1.1 GB`, `267 MB`, `0 B`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(n) < 999.5 or unit == "TB":
            break
        n /= 1000
    return f"{n:.0f} {unit}" if unit == "B" or abs(n) >= 9.95 else f"{n:.1f} {unit}"


_LOSS_SOURCE = """
import torch
from minilib.losses.contrastive import clip_loss, siglip_loss
def features():
    rows = torch.randn({batch}, {dim})
    return rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True)).requires_grad_()
torch.manual_seed(0)
all_img, all_txt = features(), features()
def once(rows):
    img, txt = (side.detach()[:rows].requires_grad_() for side in (all_img, all_txt))
    {call}
once({warm})
"""


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def _positive(**named: int) -> None:
    for name, number in named.items():
        if number < 1:
            raise ValueError(f"{name} is {number}: pass a whole number of at least 1")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, not one of {', '.join(allowed)}: choose one of these")
