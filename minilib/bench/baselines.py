"""The contrastive methods that need nothing but torch: ours, the dense references, and the usual baseline.

    name                                       matmuls   how
    dense                                      3         the b x b matrix; on a GPU its logits widened for the softmax
    dense, fp32 products                       3         our reference, which widens the features first
    default                                    3 to 4    clip_loss without options, which keeps 256 MB of tiles
    tiled, keep half | all, bf16 gradients     4 to 3    tiles kept for the backward pass, its matmuls in bf16
    row chunks, checkpoint                     8         the usual way: rows in chunks, recomputed, each direction apart
    fused, frozen texts | forward              4, 3, 1   Triton; a locked text tower; the loss alone

The fewest matmuls in O(b) memory, the floor: 2 + g for InfoNCE with g feature gradients wanted, 1 + g for SigLIP, 1
without a backward pass (`Method.floor`).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from minilib.bench.device import NAMES
from minilib.bench.harness import Method
from minilib.losses.contrastive import clip_loss, siglip_loss

EXACT, ROUNDED = 1e-5, 1e-2  # relative norm of the error that fp32, and bf16 gradient matmuls, may have
SPLIT = 1e-4  # the same for fp32 features multiplied as three TF32 matmuls, and for a loss summed in fp32
BLURRED = 0.2  # the same where the logits themselves are rounded to bf16, by 0.4 % of 100 at scale 100
CHUNK_ROWS = 1024  # of 128 to 2,048, the fastest at b = 4,096 and 8,192
GPU_TILE = 4096  # side of a plain-torch tile on a GPU: 67 MB, and few enough tiles that starting them costs little


class Inputs(NamedTuple):
    """What one call gets: leaves with gradient, `img` and `txt` of shape `(b, d)`, `scale` and `bias` scalars."""

    img: Tensor
    txt: Tensor
    scale: Tensor
    bias: Tensor


def make_inputs(
    batch: int, dim: int, scale: float, *, seed: int = 0, correlation: float = 0.0, dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Inputs:  # fmt: skip
    """Random normalised features; matching pairs have a cosine of about `correlation`. The bias is SigLIP's -10.

    Scale and bias are fp32 next to features of half precision, as in training.
    """
    random = {"generator": torch.Generator(device).manual_seed(seed), "device": device}
    img, noise = (F.normalize(torch.randn(batch, dim, **random)) for _ in range(2))
    txt = F.normalize(correlation * img + math.sqrt(1 - correlation**2) * noise)  # (b, d)
    number = {"dtype": torch.promote_types(dtype, torch.float32), "device": device}
    return fresh(Inputs(img.to(dtype), txt.to(dtype), torch.tensor(scale, **number), torch.tensor(-10.0, **number)))


def fresh(inputs: Inputs) -> Inputs:
    """The same numbers as new leaves without gradients."""
    return Inputs(*(tensor.detach().requires_grad_() for tensor in inputs))


def backward(loss: Tensor) -> Tensor:
    """Run the backward pass; the loss itself is returned without its graph."""
    loss.backward()
    return loss.detach()


def ours() -> list[Method]:
    """The methods of a CPU, from the dense reference to the fastest setting of the tiled backend."""
    low, sigmoid = {"grad_dtype": torch.bfloat16}, {"loss": "siglip"}
    return [
        Method("dense", clip_step("dense"), 3, matrices=4),
        Method("default", lambda x: backward(clip_loss(*x[:3])), None, matrices=0),
        Method("tiled", clip_step("tiled"), 4, matrices=0),
        Method("tiled, keep half", clip_step("tiled", 0.5), 3.5, matrices=0.5),
        Method("tiled, keep all", clip_step("tiled", 1), 3, matrices=1),
        Method("tiled, bf16 gradients", clip_step("tiled", **low), 4, matrices=0, tolerance=ROUNDED),
        Method("tiled, keep all, bf16 gradients", clip_step("tiled", 1, **low), 3, matrices=0.5, tolerance=ROUNDED),
        Method("dense SigLIP", siglip_step("dense"), 3, matrices=6, **sigmoid),
        Method("tiled SigLIP", siglip_step("tiled"), 3, matrices=0, **sigmoid),
        row_chunks(),
    ]


def gpu_methods(half: torch.dtype = torch.bfloat16) -> list[Method]:
    """The methods of a GPU, the dense ones first; `half` is the precision of all that take only one."""
    common, sigmoid = {"dtype": half, "tolerance": ROUNDED}, {"loss": "siglip"}
    rounded = common | {"tolerance": BLURRED if half == torch.bfloat16 else ROUNDED}
    return [
        Method("dense", lambda x: backward(dense_clip(*x[:3])), 3, matrices=4, **rounded),
        Method("dense, fp32 products", clip_step("dense"), 3, matrices=4, **common),
        *fused(half),
        Method("tiled", clip_step("tiled", tile_size=GPU_TILE), 4, matrices=0, **common),
        row_chunks(**rounded),
        Method("dense SigLIP", _dense_siglip, 3, matrices=4, **sigmoid, **rounded),
        Method("tiled SigLIP", siglip_step("tiled", tile_size=GPU_TILE), 3, matrices=0, **sigmoid, **common),
    ]


def fused(half: torch.dtype = torch.bfloat16) -> list[Method]:
    """The fused methods alone, none of which holds a b x b matrix."""
    clip, sigmoid, step = f"fused {NAMES[half]}", f"fused SigLIP {NAMES[half]}", clip_step("fused")
    forward = torch.no_grad()(lambda x: clip_loss(*x[:3], backend="fused"))
    sigmoid_forward = torch.no_grad()(lambda x: siglip_loss(*x, backend="fused"))
    common = {"matrices": 0, "dtype": half, "tolerance": ROUNDED}
    alone = common | {"missing": Inputs._fields, "tolerance": SPLIT}  # no gradient; a sum in fp32, not rounded to half
    others = [dtype for dtype in (torch.float32, torch.float16) if dtype != half]
    tolerances = {dtype: ROUNDED if dtype.itemsize < 4 else SPLIT for dtype in others}
    return [
        Method(clip, step, 4, **common),
        *(Method(f"fused {NAMES[t]}", step, 4, 0, dtype=t, tolerance=tolerances[t]) for t in others),
        Method(f"{clip}, frozen texts", lambda x: step(x._replace(txt=x.txt.detach())), 3, missing=("txt",), **common),
        Method(f"{clip}, forward", forward, 1, **alone),
        Method(sigmoid, siglip_step("fused"), 3, loss="siglip", **common),
        Method(f"{sigmoid}, forward", sigmoid_forward, 1, loss="siglip", **alone),
    ]


def row_chunks(dtype: torch.dtype = torch.float32, tolerance: float = EXACT) -> Method:
    """The usual way around the matrix: rows in chunks, each recomputed in the backward pass, each direction apart."""
    return Method("row chunks, checkpoint", _row_chunks, 8, matrices=0.5, tolerance=tolerance, dtype=dtype)


def clip_step(
    backend: str, keep_share: float = 0, grad_dtype: torch.dtype | None = None, tile_size: int | None = None
) -> Callable[[Inputs], Tensor]:
    """A step of `clip_loss`; `keep_share` is the share of all tiles that it may keep."""

    def step(x: Inputs) -> Tensor:
        element = (grad_dtype or x.img.dtype).itemsize
        cache_bytes = math.inf if keep_share == 1 else keep_share * element * len(x.img) ** 2
        options = {"tile_size": tile_size, "cache_bytes": cache_bytes, "grad_dtype": grad_dtype}
        return backward(clip_loss(*x[:3], backend=backend, **options))

    return step


def siglip_step(backend: str, tile_size: int | None = None) -> Callable[[Inputs], Tensor]:
    """A step of `siglip_loss`."""
    return lambda x: backward(siglip_loss(*x, backend=backend, tile_size=tile_size))


def dense_clip(img: Tensor, txt: Tensor, scale: Tensor) -> Tensor:
    """InfoNCE with its matrix: the matmul in the dtype of the features, the softmax in fp32 at least."""
    cosines = img @ txt.T  # (b, b)
    logits = scale * cosines.to(scale.dtype)
    labels = torch.arange(len(img), device=img.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def _dense_siglip(x: Inputs) -> Tensor:
    cosines = x.img @ x.txt.T  # (b, b)
    logits = x.scale * cosines.to(x.scale.dtype) + x.bias
    total = F.softplus(logits).sum() - logits.diagonal().sum()  # softplus(-z) = softplus(z) - z: no matrix of signs
    return backward(total / len(logits))


def _row_chunks(x: Inputs) -> Tensor:
    total = 0.0
    for rows, cols in ((x.img, x.txt), (x.txt, x.img)):
        scaled = x.scale * rows  # (b, d)
        for start in range(0, len(rows), CHUNK_ROWS):  # no chunk's logits outlive it
            total = total + checkpoint(_chunk_loss, scaled, cols, start, use_reentrant=False)
    return backward(total / (2 * len(x.img)))


def _chunk_loss(rows: Tensor, cols: Tensor, start: int) -> Tensor:
    products = rows[start : start + CHUNK_ROWS] @ cols.T  # (chunk, b)
    logits = products.to(torch.promote_types(products.dtype, torch.float32))  # a sum over chunks needs fp32
    labels = torch.arange(start, start + len(logits), device=logits.device)
    return F.cross_entropy(logits, labels, reduction="sum")
