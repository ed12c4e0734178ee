"""Contrastive losses over a batch of b pairs: InfoNCE (CLIP) and the pairwise sigmoid loss (SigLIP).

With logits X_ij = s <img_i, txt_j>:

    clip_loss   = 1/b sum_i [ (r_i + c_i) / 2 - X_ii ]
                = 1/2b sum_i [ softplus(r'_i - X_ii) + softplus(c'_i - X_ii) ]
    siglip_loss = 1/b [ sum_i softplus(-Z_ii) + sum_{i != j} softplus(Z_ij) ],        Z = X + bias

where
    s          the logit scale, already exponentiated (1 / temperature)
    r_i, c_i   log-sum-exp of row i and of column i (Inf-CL, section 2.2); r'_i, c'_i the same without the diagonal

Backends: `dense` writes X down and is the reference; `tiled` never holds more than a tile of it; `auto` chooses.

The second form of the InfoNCE loss is the one that the tiled backend computes: "negatives minus positive" keeps both
the loss and the gradient p_ii - 1 = -sigmoid(r'_i - X_ii) exact where p_ii nears 1. The gradient of the scale is the
inner product of the features with their own gradients (Euler's identity), at no tile cost.

Departure from the paper: Inf-CL prints the image-to-text half only and computes the two halves separately.
Taught in notebooks/01_build_a_contrastive_loss.ipynb and notebooks/04_tile_the_loss.ipynb; proven in
tests/test_tiled_losses_equal_dense.py.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from minilib.kernels import tiled
from minilib.losses import _inputs


def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    *,
    backend: str = "auto",
    tile_size: int | None = None,
    group=None,
    keep: float = 0,
    grad_dtype: torch.dtype | None = None,
) -> Tensor:
    """Symmetric InfoNCE loss of b matching pairs (Inf-CL, section 2.2, averaged over both directions).

    Args:
        image_features: `(b, d)`, fp64, fp32, fp16 or bf16, normalised by the caller.
        text_features: `(b, d)`, same dtype and device; row i matches image row i.
        logit_scale: multiplies the cosines (already exponentiated); a float or a tensor of one element, with gradient.
        backend: "auto", "dense" or "tiled"; all agree in value and gradient.
        tile_size: rows and columns of a tile; by default 512 x 1,024.
        group: process group of a distributed run; None for one process.
        keep: bytes that the tiled backend may spend on exponentials kept for the backward pass, where each kept tile
            saves its recompute; `math.inf` keeps all (b^2 elements).
        grad_dtype: `torch.bfloat16` takes the tiled backend's two gradient products (and kept tiles) in bf16 with fp32
            sums: faster, relative gradient error about 3e-3.

    Returns:
        The loss, a scalar in fp32 (fp64 for fp64 features). Sums are accumulated in that dtype.

    Raises:
        ValueError, TypeError: one sentence, when shapes, dtypes, devices, values or options do not fit.
    """
    backend = _inputs.check(image_features, text_features, backend, tile_size, group, keep, grad_dtype)
    img, txt = _inputs.accumulation_dtype(image_features, text_features)
    scale = _inputs.scalar("logit_scale", logit_scale, img)
    with torch.autocast(img.device.type, enabled=False):
        if backend == "dense":
            return _dense_clip(img, txt, scale)
        return _TiledClip.apply(img, txt, scale, tile_size, keep if torch.is_grad_enabled() else 0, grad_dtype)


def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    backend: str = "auto",
    tile_size: int | None = None,
    group=None,
) -> Tensor:
    """Pairwise sigmoid loss of b matching pairs, as open_clip's SigLipLoss: every pair is a yes-or-no question.

    Args and errors as `clip_loss`; `logit_bias` is added to every logit, a float or a tensor of one element, with
    gradient. The tiled backend computes loss and gradients in one visit of the tiles.
    """
    backend = _inputs.check(image_features, text_features, backend, tile_size, group)
    img, txt = _inputs.accumulation_dtype(image_features, text_features)
    scale, bias = _inputs.scalar("logit_scale", logit_scale, img), _inputs.scalar("logit_bias", logit_bias, img)
    with torch.autocast(img.device.type, enabled=False):
        if backend == "dense":
            return _dense_siglip(img, txt, scale, bias)
        return _TiledSiglip.apply(img, txt, scale, bias, tile_size, torch.is_grad_enabled())


def _dense_clip(img: Tensor, txt: Tensor, scale: Tensor) -> Tensor:
    logits = scale * img @ txt.T  # (b, b): the matrix that the other backends avoid
    labels = torch.arange(len(img), device=img.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def _dense_siglip(img: Tensor, txt: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    logits = scale * img @ txt.T + bias  # (b, b)
    signs = 2 * torch.eye(len(img), dtype=img.dtype, device=img.device) - 1
    return -F.logsigmoid(signs * logits).sum() / len(img)


class _TiledClip(torch.autograd.Function):
    """One product forward, three backward; saves the features and four numbers per pair."""

    @staticmethod
    def forward(ctx, img, txt, scale, tile_size, keep, grad_dtype):
        shift, kept, rows, cols, positive = _clip_sums(img, txt, scale, tile_size, keep, grad_dtype)
        ctx.save_for_backward(img, txt, scale, rows, cols, positive, *kept)
        ctx.shift, ctx.tile_size, ctx.grad_dtype = shift, tile_size, grad_dtype
        negatives_minus_positive = torch.stack([rows - positive, cols - positive])  # (2, b)
        return F.softplus(negatives_minus_positive, threshold=50).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        img, txt, scale, rows, cols, positive, *kept = ctx.saved_tensors
        img_grad, txt_grad = _empty_grads(img, txt, ctx.needs_input_grad)
        options = {"tile_size": ctx.tile_size, "grad_dtype": ctx.grad_dtype}
        full = torch.logaddexp(rows, positive), torch.logaddexp(cols, positive)  # with the diagonal
        with torch.autocast(img.device.type, enabled=False):
            if ctx.shift is None:
                tiled.pair_grads(img, txt, scale, *full, (img_grad, txt_grad), **options)
            else:
                weights = [torch.exp(ctx.shift - side) for side in full]
                tiled.shifted_grads(img, txt, scale, ctx.shift, *weights, (img_grad, txt_grad), keep=kept, **options)
        diagonal = -torch.sigmoid(rows - positive) - torch.sigmoid(cols - positive)  # (b,), p_ii - 1 without cancelling
        factor = upstream / (2 * len(img))
        return *_finish(ctx, img, txt, scale, img_grad, txt_grad, diagonal, factor), None, None, None


class _TiledSiglip(torch.autograd.Function):
    """Loss and gradients from one visit of the tiles: three products, all in the forward pass."""

    @staticmethod
    def forward(ctx, img, txt, scale, bias, tile_size, with_grad):
        img_grad, txt_grad = _empty_grads(img, txt, ctx.needs_input_grad) if with_grad else (None, None)
        loss, slope = tiled.sigmoid_visit(img, txt, scale, bias, (img_grad, txt_grad), tile_size)
        positive = scale * _row_dots(img, txt) + bias  # (b,)
        diagonal = -torch.sigmoid(-positive)
        ctx.save_for_backward(img, txt, scale, img_grad, txt_grad, diagonal, slope + diagonal.sum())
        return (loss + F.softplus(-positive, threshold=50).sum()) / len(img)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        img, txt, scale, img_grad, txt_grad, diagonal, slope = ctx.saved_tensors
        factor = upstream / len(img)
        copies = [None if grad is None else grad.clone() for grad in (img_grad, txt_grad)]
        *features, scale_grad = _finish(ctx, img, txt, scale, *copies, diagonal, factor)
        return *features, scale_grad, slope * factor if ctx.needs_input_grad[3] else None, None, None


def _clip_sums(img, txt, scale, tile_size, keep, grad_dtype):
    """Log-sum-exps of rows and columns without the diagonal, and the positives; `shift` is None for general logits."""
    positive = scale * _row_dots(img, txt)  # (b,)
    shift = tiled.shared_shift(img, txt, scale)
    if shift is not None:
        kept = tiled.kept_buffers(img, txt, keep, tile_size, grad_dtype)
        sums = tiled.shifted_sums(img, txt, scale, shift, tile_size, kept)
        smallest = min((side + torch.exp(positive - shift)).min().item() for side in sums)
        if tiled.SMALLEST_SUM < smallest < math.inf:
            return shift, kept, *(side.log_().add_(shift) for side in sums), positive
    return None, [], *tiled.pair_sums(img, txt, scale, tile_size), positive


def _row_dots(a, b):
    return torch.einsum("bd,bd->b", a, b)  # (b,), without the (b, d) temporary of (a * b).sum(1)


def _empty_grads(img, txt, needed) -> tuple[Tensor | None, Tensor | None]:
    """Zeroed gradients for the sides that need one; the scale's gradient needs either of them."""
    only_scale = needed[2] and not (needed[0] or needed[1])
    return torch.zeros_like(img) if needed[0] or only_scale else None, torch.zeros_like(txt) if needed[1] else None


def _finish(ctx, img, txt, scale, img_grad, txt_grad, diagonal, factor):
    """Add the positives, read the scale's gradient off a feature gradient, apply the scale: O(b d), in place."""
    scale_grad = None
    for own, partner, grad in ((img, txt, img_grad), (txt, img, txt_grad)):
        if grad is None:
            continue
        grad.addcmul_(diagonal[:, None], partner)
        if scale_grad is None and ctx.needs_input_grad[2]:
            scale_grad = _row_dots(own, grad).sum(dtype=torch.float64).to(factor.dtype) * factor
        grad *= scale * factor
    return img_grad if ctx.needs_input_grad[0] else None, txt_grad, scale_grad
