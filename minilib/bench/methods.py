"""The methods that need nothing but torch: ours, the dense references, and the usual baseline.

A method's `step` takes fresh inputs and does one forward and one backward pass, leaving its gradients in `.grad`. Each
states its products (see `machine`) and how many b x b fp32 matrices it holds at its peak, so that a run which would
not fit is refused beforehand. The fewest products of any method in O(b) memory are the floor:

    InfoNCE  2 + g, and 1 without a backward pass          SigLIP  1 + g          g = feature gradients wanted

because the logits of InfoNCE are needed twice, before and after their sums are known. Methods that only a card runs are
in `on_card`, peers from elsewhere in `peers`.
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


class UnavailableError(Exception):
    """A method cannot run here; the message is one sentence with the reason and the mend."""


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
    missing: tuple[str, ...] = ()  # gradients that it does not make, by the names of `Inputs`
    dtype: torch.dtype = torch.float32  # of the features that it is given
    multiple: int = 1  # the width must be a multiple of it

    @property
    def gradients(self) -> int:
        """Feature gradients that it makes: 2, 1 beside a frozen side, 0 for a forward pass alone."""
        return 2 - ("img" in self.missing) - ("txt" in self.missing)

    @property
    def floor(self) -> int:
        """The fewest products in which O(b) memory gives the same loss and gradients."""
        return 1 + self.gradients + (self.loss == "clip" and self.gradients > 0)


def make_inputs(
    batch: int, dim: int, scale: float, *, seed: int = 0, correlation: float = 0.0, dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Inputs:  # fmt: skip
    """Random normalised features; matching pairs have a cosine of about `correlation`. The bias is SigLIP's -10.

    Scale and bias are fp32 beside features of half precision, as in training.
    """
    generator = torch.Generator(device).manual_seed(seed)
    random = {"generator": generator, "device": device}
    img, noise = (F.normalize(torch.randn(batch, dim, **random)) for _ in range(2))
    txt = F.normalize(correlation * img + math.sqrt(1 - correlation**2) * noise)  # (b, d)
    number = {"dtype": torch.promote_types(dtype, torch.float32), "device": device}
    return fresh(Inputs(img.to(dtype), txt.to(dtype), torch.tensor(scale, **number), torch.tensor(-10.0, **number)))


def split_by_width(methods: list[Method], dim: int) -> tuple[list[Method], dict[str, str]]:
    """The methods that take features of this width, and a sentence for each of the others."""
    refused = {
        method.name: f"it takes widths that are multiples of {method.multiple} and d is {dim}: choose such a width."
        for method in methods
        if dim % method.multiple
    }
    return [method for method in methods if method.name not in refused], refused


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
        Method("dense", clip_step("dense"), products=3, matrices=4),
        Method("tiled", clip_step("tiled"), products=4, matrices=0),
        Method("tiled, keep half", clip_step("tiled", **half), products=3.5, matrices=0.5),
        Method("tiled, keep all", clip_step("tiled", keep_share=1), products=3, matrices=1),
        Method("tiled, bf16 gradients", clip_step("tiled", **low), products=4, matrices=0, tolerance=ROUNDED),
        Method(
            "tiled, keep all, bf16 gradients",
            clip_step("tiled", keep_share=1, **low),
            products=3,
            matrices=0.5,
            tolerance=ROUNDED,
        ),
        Method("dense SigLIP", siglip_step("dense"), products=3, matrices=6, loss="siglip"),
        Method("tiled SigLIP", siglip_step("tiled"), products=3, matrices=0, loss="siglip"),
    ]


def row_chunks(dtype: torch.dtype = torch.float32, tolerance: float = EXACT) -> Method:
    """The usual way around the matrix: rows in chunks, each recomputed in the backward pass, each direction apart."""
    return Method("row chunks, checkpoint", _row_chunks, products=8, matrices=0.5, tolerance=tolerance, dtype=dtype)


def clip_step(
    backend: str, keep_share: float = 0, grad_dtype: torch.dtype | None = None, tile_size: int | None = None
) -> Callable[[Inputs], Tensor]:
    """A step of `clip_loss`; `keep_share` is the share of all tiles that it may keep."""

    def step(x: Inputs) -> Tensor:
        element = (grad_dtype or x.img.dtype).itemsize
        keep = math.inf if keep_share == 1 else keep_share * element * len(x.img) ** 2  # bytes
        options = {"backend": backend, "tile_size": tile_size, "keep": keep, "grad_dtype": grad_dtype}
        return backward(clip_loss(x.img, x.txt, x.scale, **options))

    return step


def siglip_step(backend: str, tile_size: int | None = None) -> Callable[[Inputs], Tensor]:
    """A step of `siglip_loss`."""
    return lambda x: backward(siglip_loss(x.img, x.txt, x.scale, x.bias, backend=backend, tile_size=tile_size))


def _row_chunks(x: Inputs) -> Tensor:
    total = 0.0
    for rows, cols in ((x.img, x.txt), (x.txt, x.img)):
        scaled = x.scale * rows  # (b, d)
        for start in range(0, len(rows), CHUNK_ROWS):
            total = total + checkpoint(_chunk_loss, scaled, cols, start, use_reentrant=False)
    return backward(total / (2 * len(x.img)))


def _chunk_loss(rows: Tensor, cols: Tensor, start: int) -> Tensor:
    products = rows[start : start + CHUNK_ROWS] @ cols.T  # (chunk, b)
    logits = products.to(torch.promote_types(products.dtype, torch.float32))  # a sum over chunks needs fp32
    labels = torch.arange(start, start + len(logits), device=logits.device)
    return F.cross_entropy(logits, labels, reduction="sum")
