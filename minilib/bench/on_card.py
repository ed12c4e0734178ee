"""The methods of a run on a CUDA card: the fused kernels in three precisions, and what they stand beside, in bf16.

    fused          one visit of the tiles forward, a chunk of the gradient at a time backward
    (`minilib.kernels.contrastive_fused`) frozen texts   a locked text tower: no gradient of the texts, one product less
    forward        the loss alone, as an evaluation takes it tiled          the plain-torch visits, in fp32, with tiles
    large enough for a card dense          what is usually written: a half-precision product, its b x b logits widened
    to fp32 for the softmax dense, fp32 products   our reference backend, which widens the features first

`dense` rounds its logits as autocast does (an error of 0.25 where a logit is 100), so its gradients are less exact than
those of `fused` on the same features; the gate prints both errors. Each step takes features of its method's dtype.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minilib.bench.methods import ROUNDED, Inputs, Method, backward, clip_step, row_chunks, siglip_step
from minilib.losses.contrastive import clip_loss, siglip_loss

TILE = 4096  # side of a plain-torch tile on a card: 67 MB, and few enough tiles that starting them costs little
SPLIT = 1e-4  # relative error of fp32 features multiplied as three TF32 products, and of a loss summed in fp32
NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
EVERY_GRADIENT = Inputs._fields


def ours(half: torch.dtype = torch.bfloat16) -> list[Method]:
    """Our methods on a card, the dense ones first; `half` is the precision of all that take only one."""
    common = {"dtype": half, "tolerance": ROUNDED}
    sigmoid = common | {"loss": "siglip"}
    return [
        Method("dense", lambda x: backward(dense_clip(x.img, x.txt, x.scale)), products=3, matrices=4, **common),
        Method("dense, fp32 products", clip_step("dense"), products=3, matrices=4, **common),
        *fused(half),
        Method("tiled", clip_step("tiled", tile_size=TILE), products=4, matrices=0, **common),
        row_chunks(**common),
        Method("dense SigLIP", _dense_siglip, products=3, matrices=4, **sigmoid),
        Method("tiled SigLIP", siglip_step("tiled", tile_size=TILE), products=3, matrices=0, **sigmoid),
    ]


def fused(half: torch.dtype = torch.bfloat16) -> list[Method]:
    """The fused methods alone, none of which holds a b x b matrix."""
    name, common = NAMES[half], {"matrices": 0, "dtype": half, "tolerance": ROUNDED}
    sigmoid = common | {"loss": "siglip"}
    forward = {"products": 1, "missing": EVERY_GRADIENT, "tolerance": SPLIT}  # a sum in fp32, nothing rounded to half
    step = clip_step("fused")
    others = [dtype for dtype in (torch.float32, torch.float16) if dtype != half]
    return [
        Method(f"fused {name}", step, products=4, **common),
        *(
            Method(
                f"fused {NAMES[dtype]}", step, 4, 0, dtype=dtype, tolerance=SPLIT if dtype.itemsize == 4 else ROUNDED
            )
            for dtype in others
        ),
        Method(f"fused {name}, frozen texts", _frozen_texts, products=3, missing=("txt",), **common),
        Method(f"fused {name}, forward", _forward, **common | forward),
        Method(f"fused SigLIP {name}", siglip_step("fused"), products=3, **sigmoid),
        Method(f"fused SigLIP {name}, forward", _siglip_forward, **sigmoid | forward),
    ]


def compiled_dense(half: torch.dtype = torch.bfloat16) -> Method:
    """The dense loss of this file under `torch.compile`, compiled anew for every shape."""
    loss = torch.compile(dense_clip, dynamic=False)
    step: Callable[[Inputs], Tensor] = lambda x: backward(loss(x.img, x.txt, x.scale))  # noqa: E731
    return Method("compiled dense", step, products=3, matrices=3, dtype=half, tolerance=ROUNDED)


def dense_clip(img: Tensor, txt: Tensor, scale: Tensor) -> Tensor:
    """InfoNCE with its matrix: the product in the dtype of the features, the softmax in fp32 at least."""
    cosines = img @ txt.T  # (b, b)
    logits = scale * cosines.to(scale.dtype)
    labels = torch.arange(len(img), device=img.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def _dense_siglip(x: Inputs) -> Tensor:
    cosines = x.img @ x.txt.T  # (b, b)
    logits = x.scale * cosines.to(x.scale.dtype) + x.bias
    total = F.softplus(logits).sum() - logits.diagonal().sum()  # softplus(-z) = softplus(z) - z: no matrix of signs
    return backward(total / len(logits))


def _frozen_texts(x: Inputs) -> Tensor:
    return backward(clip_loss(x.img, x.txt.detach(), x.scale, backend="fused"))


@torch.no_grad()
def _forward(x: Inputs) -> Tensor:
    return clip_loss(x.img, x.txt, x.scale, backend="fused")


@torch.no_grad()
def _siglip_forward(x: Inputs) -> Tensor:
    return siglip_loss(x.img, x.txt, x.scale, x.bias, backend="fused")
