"""The methods that need nothing but torch: ours, the dense references, and the usual baseline.

A method's `step` takes fresh inputs and does one forward and one backward pass, leaving its gradients in `.grad`. Each
states its products (see `machine`) and how many b x b fp32 matrices it holds at its peak, so that a run which would
not fit is refused beforehand. Peers from elsewhere are in `peers`. Proven in tests/test_bench_is_honest.py.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from minilib.losses.contrastive import clip_loss, siglip_loss

EXACT, ROUNDED = 1e-5, 1e-2  # relative norm of the error that fp32, and bf16 gradient products, may have
CHUNK_ROWS = 1024  # of 128 to 2,048, the fastest at b = 4,096 and 8,192


class Inputs(NamedTuple):
    """What one call gets: leaves with gradient, `img` and `txt` of shape `(b, d)`, `scale` and `bias` scalars."""

    img: Tensor
    txt: Tensor
    scale: Tensor
    bias: Tensor


class Method(NamedTuple):
    """One way to compute a contrastive loss and its gradients."""

    name: str
    step: Callable[[Inputs], Tensor]  # returns the loss, a scalar
    products: float
    matrices: float
    loss: str = "clip"
    tolerance: float = EXACT
    scale_grad: bool = True  # False: the method takes the scale as a constant


def make_inputs(
    batch: int, dim: int, scale: float, *, seed: int = 0, correlation: float = 0.0, dtype: torch.dtype = torch.float32
) -> Inputs:
    """Random normalised features; matching pairs have a cosine of about `correlation`. The bias is SigLIP's -10."""
    generator = torch.Generator().manual_seed(seed)
    img, noise = (F.normalize(torch.randn(batch, dim, generator=generator)) for _ in range(2))
    txt = F.normalize(correlation * img + math.sqrt(1 - correlation**2) * noise)  # (b, d)
    return fresh(
        Inputs(img.to(dtype), txt.to(dtype), torch.tensor(scale, dtype=dtype), torch.tensor(-10.0, dtype=dtype))
    )


def split_by_memory(methods: list[Method], batch: int, dim: int, free: int) -> tuple[list[Method], dict[str, str]]:
    """The methods that fit into nine tenths of `free` bytes, and a sentence for each of the others."""
    refused = {}
    for method in methods:
        need = method.matrices * 4 * batch**2 + 8 * 4 * batch * dim  # fp32 matrices; features, gradients, copies
        if need > 0.9 * free:
            refused[method.name] = (
                f"it needs about {need / 1e9:.1f} GB and {free / 1e9:.1f} GB are free: choose a smaller batch."
            )
    return [method for method in methods if method.name not in refused], refused


def fresh(inputs: Inputs) -> Inputs:
    """The same numbers as new leaves without gradients."""
    return Inputs(*(tensor.detach().requires_grad_() for tensor in inputs))


def backward(loss: Tensor) -> Tensor:
    """Run the backward pass; the loss itself is returned without its graph."""
    loss.backward()
    return loss.detach()


def ours() -> list[Method]:
    """Our losses, from the dense reference to the fastest setting of the tiled backend."""
    half = {"keep_share": 0.5}
    low = {"grad_dtype": torch.bfloat16}
    return [
        Method("dense", _clip("dense"), products=3, matrices=4),
        Method("tiled", _clip("tiled"), products=4, matrices=0),
        Method("tiled, keep half", _clip("tiled", **half), products=3.5, matrices=0.5),
        Method("tiled, keep all", _clip("tiled", keep_share=1), products=3, matrices=1),
        Method("tiled, bf16 gradients", _clip("tiled", **low), products=4, matrices=0, tolerance=ROUNDED),
        Method(
            "tiled, keep all, bf16 gradients",
            _clip("tiled", keep_share=1, **low),
            products=3,
            matrices=0.5,
            tolerance=ROUNDED,
        ),
        Method("dense SigLIP", _siglip("dense"), products=3, matrices=6, loss="siglip"),
        Method("tiled SigLIP", _siglip("tiled"), products=3, matrices=0, loss="siglip"),
    ]


def row_chunks() -> Method:
    """The usual way around the matrix: rows in chunks, each recomputed in the backward pass, each direction apart."""
    return Method("row chunks, checkpoint", _row_chunks, products=8, matrices=0.5)


def _clip(backend: str, keep_share: float = 0, grad_dtype: torch.dtype | None = None) -> Callable[[Inputs], Tensor]:
    def step(x: Inputs) -> Tensor:
        element = (grad_dtype or x.img.dtype).itemsize
        keep = math.inf if keep_share == 1 else keep_share * element * len(x.img) ** 2  # bytes
        return backward(clip_loss(x.img, x.txt, x.scale, backend=backend, keep=keep, grad_dtype=grad_dtype))

    return step


def _siglip(backend: str) -> Callable[[Inputs], Tensor]:
    return lambda x: backward(siglip_loss(x.img, x.txt, x.scale, x.bias, backend=backend))


def _row_chunks(x: Inputs) -> Tensor:
    total = 0.0
    for rows, cols in ((x.img, x.txt), (x.txt, x.img)):
        scaled = x.scale * rows  # (b, d)
        for start in range(0, len(rows), CHUNK_ROWS):
            total = total + checkpoint(_chunk_loss, scaled, cols, start, use_reentrant=False)
    return backward(total / (2 * len(x.img)))


def _chunk_loss(rows: Tensor, cols: Tensor, start: int) -> Tensor:
    logits = rows[start : start + CHUNK_ROWS] @ cols.T  # (chunk, b)
    labels = torch.arange(start, start + len(logits))
    return F.cross_entropy(logits, labels, reduction="sum")
