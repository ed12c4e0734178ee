"""Contrastive losses over a batch of b pairs: InfoNCE (CLIP) and the pairwise sigmoid loss (SigLIP).

With logits X_ij = s <img_i, txt_j>:

    clip_loss   = 1/b sum_i [ (r_i + c_i) / 2 - X_ii ]
                = 1/2b sum_i [ softplus(r'_i - X_ii) + softplus(c'_i - X_ii) ]
    siglip_loss = 1/b [ sum_i softplus(-Z_ii) + sum_{i != j} softplus(Z_ij) ],        Z = X + bias

where
    s          the logit scale, already exponentiated (1 / temperature)
    r_i, c_i   log-sum-exp of row i and of column i (Inf-CL, section 2.2); r'_i, c'_i the same without the diagonal

Backends: `dense` writes X down and is the reference; `tiled` never holds more than a tile of it; `fused` keeps the tile
in the registers of a GPU; `ring` passes blocks around the ranks of a process group
(`minilib.losses.contrastive_ring`), each working with one of those two; `auto` is tiled, and fused on the kinds of GPU
where the kernels have proven right (`minilib.kernels`).

Tiled and fused compute the second form of the InfoNCE loss: "negatives minus positive" keeps both the loss and the
gradient p_ii - 1 = -sigmoid(r'_i - X_ii) exact where p_ii nears 1.

Departure from the paper: Inf-CL prints the image-to-text half only and computes the two halves separately. Taught in
notebooks/01_build_a_contrastive_loss.ipynb and notebooks/04_tile_the_loss.ipynb.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from minilib.distributed.ranks import spans_ranks
from minilib.kernels import contrastive_kernels, contrastive_tiled
from minilib.losses.feature_grads import as_multiplied, empty_grads, finish, first_order_only, row_dots
from minilib.losses.validation import check_contrastive, check_finite, scalar

AUTO_CACHE = 256 * 2**20  # bytes of tiles that "auto" keeps on a CPU; a GPU gets none until it is measured there


def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    *,
    backend: str = "auto",
    tile_size: int | None = None,
    group=None,
    cache_bytes: float | str = "auto",
    grad_dtype: torch.dtype | None = None,
    check: bool = True,
) -> Tensor:
    """Symmetric InfoNCE loss of b matching pairs (Inf-CL, section 2.2, averaged over both directions).

    Args:
        image_features: `(b, d)`, fp64, fp32, fp16 or bf16, normalised by the caller.
        text_features: `(b, d)`, same dtype and device; row i matches image row i.
        logit_scale: multiplies the cosines (already exponentiated); a float or a tensor of one element, with gradient.
        backend: "auto", "dense", "tiled", "fused" (fp32, fp16, bf16; a CUDA GPU, or TRITON_INTERPRET=1 on a CPU) or
            "ring" (needs a group); all agree in value and gradient. In a group of several ranks "tiled" and "fused"
            name what each rank of the ring works with.
        tile_size: rows and columns of a tile, by default 512 x 1,024; for "fused", of the chunk of gradient that is
            held at a time, by default 8,192 (16,384 up to d = 256).
        group: process group whose ranks call this together, each with its own pairs; None for one process.
        cache_bytes: bytes that the tiled backend may spend on tiles kept for the backward pass, each of which saves
            its recompute; `math.inf` keeps all (b^2 elements). "auto" is 256 MiB on a CPU and 0 elsewhere.
        grad_dtype: `torch.bfloat16` takes the tiled backend's two gradient products (and cached tiles) in bf16 with
            fp32 sums: faster where the hardware multiplies bf16; relative gradient error about 3e-3.
        check: whether to look for NaN and infinity first, for which the host waits for a GPU once; a ring always looks.

    Returns:
        The loss, a scalar in fp32 (fp64 for fp64 features), the dtype of all sums. In a group of n ranks with b pairs
        together: n/b times the sum over the own rows and columns, so that averages over ranks, of the value and of
        every parameter's gradient, are those of one process with all pairs. All ranks must scale it by one factor.

    Raises:
        ConnectionError: when a rank of the group is lost or does not answer within its timeout.
    """
    if spans_ranks(group):
        options = {"backend": backend, "tile_size": tile_size, "cache_bytes": cache_bytes, "grad_dtype": grad_dtype}
        return _over(group, "ring_clip_loss", image_features, text_features, logit_scale, **options)
    backend = check_contrastive(image_features, text_features, backend, tile_size, group, cache_bytes, grad_dtype)
    img, txt = (as_multiplied(side, backend) for side in (image_features, text_features))
    scale = scalar("logit_scale", logit_scale, img)
    if check:
        check_finite(image_features=img, text_features=txt, logit_scale=scale)
    with torch.autocast(img.device.type, enabled=False):
        if backend == "dense":
            return _dense_clip(img, txt, scale)
        # The backward pass reads a cached tile instead of computing it again: bytes for one matmul in four.
        cache = _cache_size(cache_bytes, backend, img)
        return _FoldedClip.apply(img, txt, scale, contrastive_kernels(backend), tile_size, cache, grad_dtype)


def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    backend: str = "auto",
    tile_size: int | None = None,
    group=None,
    check: bool = True,
) -> Tensor:
    """Pairwise sigmoid loss of b matching pairs, as open_clip's SigLipLoss: every pair is a yes-or-no question.

    Args and errors as `clip_loss`; `logit_bias` is added to every logit, a float or a tensor of one element, with
    gradient. The tiled and fused backends compute loss and gradients in one visit of the tiles. In a group, a rank's
    share is n/b times the sum over the own rows.
    """
    if spans_ranks(group):
        options = {"backend": backend, "tile_size": tile_size}
        return _over(group, "ring_siglip_loss", image_features, text_features, logit_scale, logit_bias, **options)
    backend = check_contrastive(image_features, text_features, backend, tile_size, group)
    img, txt = (as_multiplied(side, backend) for side in (image_features, text_features))
    scale, bias = scalar("logit_scale", logit_scale, img), scalar("logit_bias", logit_bias, img)
    if check:
        check_finite(image_features=img, text_features=txt, logit_scale=scale, logit_bias=bias)
    with torch.autocast(img.device.type, enabled=False):
        if backend == "dense":
            return _dense_siglip(img, txt, scale, bias)
        kernels = contrastive_kernels(backend)
        return _FoldedSiglip.apply(img, txt, scale, bias, kernels, tile_size, torch.is_grad_enabled())


def _over(group, loss: str, img, txt, *numbers, **options) -> Tensor:
    """This process's share of a loss over the ranks of `group`."""
    # Imported late: a torch without distributed can do everything else.
    from minilib.distributed.ring_comm import RingComm
    from minilib.losses import contrastive_ring

    return getattr(contrastive_ring, loss)(RingComm(group), [img], [txt], *numbers, **options)[0]


def _cache_size(cache_bytes: float | str, backend: str, img: Tensor) -> float:
    """The bytes that `cache_bytes` stands for; nothing is cached where no backward pass can follow."""
    if backend != "tiled" or not torch.is_grad_enabled():
        return 0
    # On a GPU recomputing a tile is about as fast as reading it back: nothing until that is measured.
    if cache_bytes == "auto":
        return AUTO_CACHE if img.device.type == "cpu" else 0
    return cache_bytes


def _dense_clip(img: Tensor, txt: Tensor, scale: Tensor) -> Tensor:
    logits = scale * img @ txt.T  # (b, b): the matrix that the other backends avoid
    labels = torch.arange(len(img), device=img.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def _dense_siglip(img: Tensor, txt: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    logits = scale * img @ txt.T + bias  # (b, b)
    # +1 for the pairs that match, -1 for all others: one yes-or-no question per entry.
    signs = 2 * torch.eye(len(img), dtype=img.dtype, device=img.device) - 1
    return -F.logsigmoid(signs * logits).sum() / len(img)


class _FoldedClip(torch.autograd.Function):
    """One product forward, three backward; saves the features and three numbers per pair."""

    @staticmethod
    def forward(ctx, img, txt, scale, kernels, tile_size, cache_bytes, grad_dtype):
        shift, cache, rows, cols, positive = _clip_sums(img, txt, scale, kernels, tile_size, cache_bytes, grad_dtype)
        ctx.save_for_backward(img, txt, scale, rows, cols, positive, *cache)
        ctx.shift, ctx.kernels, ctx.tile_size = shift, kernels, tile_size
        ctx.options = {"grad_dtype": grad_dtype} if grad_dtype else {}
        # log(negatives + positive) - positive, written so that nothing cancels where the positive dominates.
        negatives_minus_positive = torch.stack([rows - positive, cols - positive])  # (2, b)
        return F.softplus(negatives_minus_positive, threshold=50).mean()

    @staticmethod
    @first_order_only
    def backward(ctx, upstream):
        img, txt, scale, rows, cols, positive, *cache = ctx.saved_tensors
        img_grad, txt_grad = empty_grads(img, txt, ctx.needs_input_grad)
        full = torch.logaddexp(rows, positive), torch.logaddexp(cols, positive)  # with the diagonal
        inputs, outputs = (img, txt, scale), ((img_grad, txt_grad), ctx.tile_size)
        with torch.autocast(img.device.type, enabled=False):
            # Without a shared shift each direction needs an exponential of its own.
            if ctx.shift is None:
                ctx.kernels.pair_grads(*inputs, *full, *outputs, **ctx.options)
            else:
                # 1 / sum of a row (or column), in the units of the shared shift: one exponential serves both.
                weights = [torch.exp(ctx.shift - side) for side in full]
                options = ctx.options | ({"cache": cache} if cache else {})
                ctx.kernels.shifted_grads(*inputs, ctx.shift, *weights, *outputs, **options)
        diagonal = -torch.sigmoid(rows - positive) - torch.sigmoid(cols - positive)  # (b,), p_ii - 1 without cancelling
        # Each direction is a mean over b rows, and the loss the mean of both directions.
        factor = upstream / (2 * len(img))
        finished = finish(ctx.needs_input_grad, img, txt, scale, img_grad, txt_grad, diagonal, factor)
        return *finished, *[None] * 4


class _FoldedSiglip(torch.autograd.Function):
    """Loss and gradients from one visit of the tiles: three products, all in the forward pass."""

    @staticmethod
    def forward(ctx, img, txt, scale, bias, kernels, tile_size, with_grad):
        img_grad, txt_grad = empty_grads(img, txt, ctx.needs_input_grad) if with_grad else (None, None)
        loss, slope = kernels.sigmoid_visit(img, txt, scale, bias, (img_grad, txt_grad), tile_size)
        # The visit left the diagonal out; a matching pair has the opposite sign and costs O(b d).
        positive = scale * row_dots(img, txt) + bias  # (b,)
        diagonal = -torch.sigmoid(-positive)
        ctx.save_for_backward(img, txt, scale, img_grad, txt_grad, diagonal, slope + diagonal.sum())
        return (loss + F.softplus(-positive, threshold=50).sum()) / len(img)

    @staticmethod
    @first_order_only
    def backward(ctx, upstream):
        img, txt, scale, img_grad, txt_grad, diagonal, slope = ctx.saved_tensors
        factor = upstream / len(img)
        # Copies, because the graph may be walked back a second time.
        copies = [None if grad is None else grad.clone() for grad in (img_grad, txt_grad)]
        *features, scale_grad = finish(ctx.needs_input_grad, img, txt, scale, *copies, diagonal, factor)
        return *features, scale_grad, slope * factor if ctx.needs_input_grad[3] else None, None, None, None


def _clip_sums(img, txt, scale, kernels, tile_size, cache_bytes, grad_dtype):
    """Log-sum-exps of rows and columns without the diagonal, and the positives; `shift` is None for general logits."""
    positive = scale * row_dots(img, txt)  # (b,)
    shift = kernels.shared_shift(img, txt, scale)
    if shift is not None:
        cache = kernels.cache_buffers(img, txt, cache_bytes, tile_size, grad_dtype) if cache_bytes else []
        sums = kernels.shifted_sums(img, txt, scale, shift, tile_size, **({"cache": cache} if cache else {}))
        # A sum near 0 may have lost terms to underflow, an infinite one has overflowed: one read of the device tells.
        smallest = torch.stack([(side + torch.exp(positive - shift)).min() for side in sums]).min().item()
        if contrastive_tiled.SMALLEST_SUM < smallest < math.inf:
            # From here on all numbers are log-sum-exps, whatever the shift was.
            return shift, cache, *(side.log_().add_(shift) for side in sums), positive
    return None, [], *kernels.pair_sums(img, txt, scale, tile_size), positive
