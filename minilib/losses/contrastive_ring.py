"""The contrastive losses over a ring of ranks: shares of one loss whose average is the loss of all pairs.

Every rank keeps its images, the text blocks travel, and each block meets all images once. At step k rank p holds the
texts of rank p - k (mod n):

    forward     rows stay, R_p = sum over k of the row sums of block (p, p - k);  columns meet, one all-reduce of them
    backward    dimg_p stays, sum over k of G txt_{p-k};  dtxt follows its texts, each rank adding its G^T img
    share_p     n/b times the terms of the own rows and columns (InfoNCE) or of the own rows (SigLIP)

where
    n, b    ranks, pairs of all ranks together
    G       gradient of the logits of one block, from the kernels of the local backend

The average over ranks is exact, as DistributedDataParallel takes it: features receive the gradient of the sum of all
shares, the scale its own rows' part n/b sum_i <img_i, dimg_i>, and likewise the bias. One shift serves all ranks, so
partial sums add up; where logits are too large for it, log-sum-exps merge instead.

Departures from the paper: Inf-CL sends both sides around, in fp32, and lets every gradient travel n steps: 20 bytes per
element of b x d on 4 ranks, 9 here. Its Algorithm 3 takes text i + j - 1 at step j; text i - j + 1 is what arrives. Its
code sums the scale's gradient over ranks, n times too large after the average. Taught in
notebooks/06_pass_tiles_around_a_ring.ipynb.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minilib.distributed.ranks import check_agreement
from minilib.distributed.ring_comm import Comm, LocalRing, RingComm
from minilib.kernels import contrastive_kernels, contrastive_tiled
from minilib.losses.feature_grads import as_multiplied, empty_grads, finish, first_order_only, row_dots
from minilib.losses.validation import BACKENDS, DTYPES, check_finite, check_ring, scalar

LOSSES, WANTED = ("clip_loss", "siglip_loss"), ("not wanted", "wanted")
TERMS = {  # what must be the same on every rank: a number, or the place of a word in these
    "loss": LOSSES, "width": None, "dtype": DTYPES, "backend": BACKENDS, "logit scale": None, "logit bias": None,
    "image gradient": WANTED, "text gradient": WANTED,
}  # fmt: skip


def ring_clip_loss(
    ring: LocalRing | RingComm,
    images: Sequence[Tensor],
    texts: Sequence[Tensor],
    logit_scale: Tensor | float,
    *,
    backend: str = "auto",
    tile_size: int | None = None,
    cache_bytes: float | str = "auto",
    grad_dtype: torch.dtype | None = None,
) -> Tensor:
    """Shares `(k,)` of the InfoNCE loss, one for each of the k ranks that live in this process.

    ring: `LocalRing(n)`, whose ranks all live here, or `RingComm(group)`, where k = 1. images, texts: features `(m, d)`
    of each of these ranks; m may differ from rank to rank. backend: what a rank works with on one block, "tiled" or
    "fused". cache_bytes: 0 or "auto". Everything else and errors as in `clip_loss`.
    """
    options = backend, tile_size, cache_bytes, grad_dtype
    return _apply(ring, (clip_share, clip_grads), images, texts, logit_scale, None, *options)


def ring_siglip_loss(
    ring: LocalRing | RingComm,
    images: Sequence[Tensor],
    texts: Sequence[Tensor],
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    backend: str = "auto",
    tile_size: int | None = None,
) -> Tensor:
    """Shares `(k,)` of the pairwise sigmoid loss; args and errors as `ring_clip_loss`."""
    return _apply(ring, (siglip_share, siglip_grads), images, texts, logit_scale, logit_bias, backend, tile_size)


# What a rank does, top to bottom: functions of its `Comm`, its features and what all ranks share


def clip_share(comm: Comm, img: Tensor, txt: Tensor, needed, scale: Tensor, bias: None, local: "Local"):
    """Forward: this rank's share, the rows of all ranks with the shift, and the tensors that backward needs."""
    counts, bound = _agree(comm, "clip_loss", img, txt, needed, local, scale)
    positive = scale * row_dots(img, txt)  # (m,)
    shift = contrastive_tiled.shift_for(bound)
    # The fast way first; every rank leaves it together if a single sum has vanished on any of them.
    sums = None if shift is None else _shifted_sums(comm, counts, img, txt, scale, positive, shift, local)
    if sums is None:
        shift, sums = None, _state_sums(comm, counts, img, txt, scale, positive, local)
    rows, cols, all_cols = sums
    terms = F.softplus(torch.stack([rows - positive, cols - positive]), threshold=50)  # (2, m)
    share = terms.sum() * (comm.world_size / (2 * sum(counts)))
    return share, (counts, shift), (img, txt, rows, cols, all_cols, positive)


def _ring_sums(comm: Comm, counts: list[int], txt: Tensor, sums_of: Callable, merge: Callable):
    """Let every text block pass this rank: its rows `(m,)` complete, and its part of all columns `(b,)`."""
    block, rows, cols = txt.contiguous(), None, [None] * comm.world_size
    for step in range(comm.world_size):
        owner, last = comm.owner(step), step + 1 == comm.world_size
        if not last:  # on its way before the work begins, so that transport and arithmetic overlap
            arriving = comm.send_recv("texts", step, block, counts[comm.owner(step + 1)])
        comm.note("work on sums", step=step)
        of_rows, cols[owner] = sums_of(block, owner == comm.rank)
        rows = of_rows if rows is None else merge(rows, of_rows)
        if not last:
            block = arriving()
    return rows, torch.cat(cols)


def _shifted_sums(comm, counts, img, txt, scale, positive, shift, local):
    """Log-sum-exps without the diagonal of own rows and columns, of all columns with it; None if any sum vanished."""
    rows, cols = _ring_sums(comm, counts, txt, local.sums("shifted_sums", img, scale, shift), torch.add)
    table = cols.new_zeros(2, len(cols) + 1)  # columns and positives of all pairs; how many ranks have lost a row
    table[0, :-1], table[0, -1] = cols, not _safe(rows, positive, shift)
    table[1, :-1].split(counts)[comm.rank].copy_(positive)
    table = comm.all_reduce("columns", table)
    cols, positives = table[:, :-1]
    # Every rank sees the same table and comes to the same verdict, without another message.
    if table[0, -1] > 0 or not _safe(cols, positives, shift):
        return None
    cols = cols.log() + shift
    return rows.log() + shift, cols.split(counts)[comm.rank], torch.logaddexp(cols, positives)


def _state_sums(comm, counts, img, txt, scale, positive, local):
    """The same for logits of any size: the column states (m, s) of all ranks merge, first maxima, then sums."""
    rows, cols = _ring_sums(comm, counts, txt, local.sums("pair_sums", img, scale), torch.logaddexp)
    m = comm.all_reduce("maxima", cols, op="max")
    m = torch.where(m == -math.inf, 0.0, m)  # inf - inf is NaN; any finite reference serves an empty sum
    table = torch.stack([torch.exp(cols - m), torch.zeros_like(cols)])  # (2, b)
    table[1].split(counts)[comm.rank].copy_(positive)
    s, positives = comm.all_reduce("columns", table)
    cols = m + s.log()
    return rows, cols.split(counts)[comm.rank], torch.logaddexp(cols, positives)


def clip_grads(comm: Comm, needed, upstream: Tensor, kept, saved, scale: Tensor, local: "Local"):
    """Backward: gradients of the own images and texts, and the scale's own part."""
    (counts, shift), (img, txt, rows, cols, all_cols, positive) = kept, saved
    _check_upstream(comm, upstream)
    operand, img_grad = local.operand(img), empty_grads(img, img, (needed[0], False, needed[2] and not needed[1]))[0]
    row_lse = torch.logaddexp(rows, positive)  # with the diagonal, as `all_cols`

    def add_grads(block: Tensor, owner: int, txt_grad: Tensor | None) -> None:
        sides, grads = (row_lse, all_cols.split(counts)[owner]), ((img_grad, txt_grad), local.tile_size)
        kernel, numbers = local.kernels.pair_grads, (scale,)
        if shift is not None:
            kernel, numbers = local.kernels.shifted_grads, (scale, shift)
            sides = [torch.exp(shift - side) for side in sides]
        kernel(operand, block, *numbers, *sides, *grads, paired=owner == comm.rank, **local.options)

    txt_grad = _ring_grads(comm, counts, txt, needed[1], "gradients", add_grads, local)
    diagonal = -torch.sigmoid(rows - positive) - torch.sigmoid(cols - positive)  # (m,)
    factor = upstream * (comm.world_size / (2 * sum(counts)))
    return *finish(needed, img, txt, scale, img_grad, txt_grad, diagonal, factor), None


def _ring_grads(comm: Comm, counts: list[int], txt: Tensor, wanted: bool, what: str, add_grads: Callable, local):
    """Let every text block pass this rank with its gradient; returns that of the own texts, None if not wanted."""
    block = txt.contiguous()
    for step in range(comm.world_size):
        last, rows = step + 1 == comm.world_size, counts[comm.owner(step + 1)]
        if not last:
            arriving = comm.send_recv("texts", step, block, rows)
        comm.note(f"work on {what}", step=step)
        operand = local.operand(block)
        grad = empty_grads(operand, operand, (wanted, False, False))[0]
        add_grads(operand, comm.owner(step), grad)
        if step == 0:
            home, grad_arriving = grad, None  # the own block has the longest way: its gradient waits here
        elif wanted:
            if grad_arriving is not None:
                grad += grad_arriving()  # what the ranks before have added for this owner
                grad_arriving = None  # the last step's buffers are let go before the next one is allocated
            grad_arriving = comm.send_recv("gradients", step, grad, rows)
        if not last:
            block = arriving()
    if grad_arriving is not None:
        home += grad_arriving()
    return home


def siglip_share(comm: Comm, img: Tensor, txt: Tensor, needed, scale: Tensor, bias: Tensor, local: "Local"):
    """Forward, gradients included, since there is no normaliser to wait for; returns as `clip_share`."""
    counts, _ = _agree(comm, "siglip_loss", img, txt, needed, local, scale, bias)
    operand, img_grad = local.operand(img), empty_grads(img, img, (needed[0], False, needed[2] and not needed[1]))[0]
    sums = torch.zeros(2, dtype=torch.float64, device=img.device)

    def visit(block: Tensor, owner: int, txt_grad: Tensor | None) -> None:
        inputs, grads = (operand, block, scale, bias), (img_grad, txt_grad)
        sums.add_(torch.stack(local.kernels.sigmoid_visit(*inputs, grads, local.tile_size, owner == comm.rank)))

    txt_grad = _ring_grads(comm, counts, txt, needed[1], "sigmoid", visit, local)
    loss, slope = sums.to(scale.dtype)
    positive = scale * row_dots(img, txt) + bias  # (m,)
    diagonal = -torch.sigmoid(-positive)
    share = (loss + F.softplus(-positive, threshold=50).sum()) * (comm.world_size / sum(counts))
    return share, (counts, None), (img, txt, img_grad, txt_grad, diagonal, slope + diagonal.sum())


def siglip_grads(comm: Comm, needed, upstream: Tensor, kept, saved, scale: Tensor, local: "Local"):
    """Backward: what the forward pass has found, scaled; the bias's own part comes last."""
    (counts, _), (img, txt, *grads, diagonal, slope) = kept, saved
    _check_upstream(comm, upstream)
    factor = upstream * (comm.world_size / sum(counts))
    copies = [None if grad is None else grad.clone() for grad in grads]
    return *finish(needed, img, txt, scale, *copies, diagonal, factor), slope * factor


class _RingLoss(torch.autograd.Function):
    """One node of the graph for all ranks of a process; saves features and sums (SigLIP: gradients), no tile."""

    @staticmethod
    def forward(ctx, ring, functions, local, scale, bias, with_grad, *features):
        k, flags = ring.local_ranks, [with_grad and flag for flag in ctx.needs_input_grad[6:]]
        ctx.needed = [(flags[r], flags[k + r], with_grad and scale.requires_grad) for r in range(k)]
        with torch.autocast(scale.device.type, enabled=False):
            share = partial(functions[0], scale=scale, bias=bias, local=local)
            shares, ctx.kept, saved = zip(*ring.run(share, features[:k], features[k:], ctx.needed))
        ctx.ring, ctx.grads, ctx.local = ring, functions[1], local
        ctx.save_for_backward(scale, *(tensor for of_rank in saved for tensor in of_rank))
        return torch.stack(shares)  # (k,)

    @staticmethod
    @first_order_only
    def backward(ctx, upstream):
        scale, *saved = ctx.saved_tensors
        saved = list(zip(*[iter(saved)] * (len(saved) // len(ctx.kept))))  # those of each rank
        with torch.autocast(scale.device.type, enabled=False):
            grads = partial(ctx.grads, scale=scale, local=ctx.local)
            images, texts, *numbers = zip(*ctx.ring.run(grads, ctx.needed, upstream, ctx.kept, saved))
        scale_grad, bias_grad = (None if parts[0] is None else torch.stack(parts).sum(0) for parts in numbers)
        return None, None, None, scale_grad, bias_grad if ctx.needs_input_grad[4] else None, None, *images, *texts


# What is checked in one process, and what ranks agree on before the first ring step


class Local(NamedTuple):
    """How a rank works on one block: its backend and that one's kernels, tile size and further options."""

    backend: str
    kernels: Any
    tile_size: int | None
    options: dict[str, Any]

    def operand(self, features: Tensor) -> Tensor:
        """The features as these kernels multiply them."""
        return as_multiplied(features, self.backend)

    def sums(self, name: str, img: Tensor, *numbers: Any) -> Callable:
        """The kernel `name` of these images as a function of one text block."""
        kernel, img = getattr(self.kernels, name), self.operand(img)
        return lambda block, paired: kernel(img, self.operand(block), *numbers, self.tile_size, paired=paired)


def _apply(ring, functions, images, texts, scale, bias, backend, tile_size, cache_bytes="auto", grad_dtype=None):
    try:
        chosen = check_ring(ring, images, texts, backend, tile_size, cache_bytes, grad_dtype)
        scale = scalar("logit_scale", scale, images[0])
        bias = None if bias is None else scalar("logit_bias", bias, images[0])
        for img, txt in zip(images, texts):
            check_finite(image_features=img, text_features=txt, logit_scale=scale, logit_bias=bias)
    except (ValueError, TypeError):
        if isinstance(ring, RingComm):  # the other ranks would wait for this one otherwise
            with suppress(ConnectionError):
                ring.all_gather("terms", [0.0] * (4 + len(TERMS)))
        raise
    local = Local(chosen, contrastive_kernels(chosen), tile_size, {"grad_dtype": grad_dtype} if grad_dtype else {})
    return _RingLoss.apply(ring, functions, local, scale, bias, torch.is_grad_enabled(), *images, *texts)


def _agree(comm, loss, img, txt, needed, local, scale, bias=None) -> tuple[list[int], float]:
    """The rows of every rank, and a bound on the size of all logits, once all ranks have the same terms."""
    longest = [contrastive_tiled.largest_norm(side).item() for side in (img, txt)]
    terms = [LOSSES.index(loss), img.shape[1], DTYPES.index(img.dtype), BACKENDS.index(local.backend)]
    terms += [scale.item(), 0.0 if bias is None else bias.item(), *needed[:2]]
    everyone = comm.all_gather("terms", [True, len(img), *longest, *terms])
    named = [zip(TERMS.items(), numbers[4:]) if numbers[0] else None for numbers in everyone]  # None: raised an error
    told = [pairs and {n: words[int(x)] if words else f"{x:g}" for (n, words), x in pairs} for pairs in named]
    check_agreement(told, "every rank must call with the same")
    _, rows, longest_img, longest_txt, *_ = zip(*everyone)
    return [int(count) for count in rows], abs(scale.item()) * max(longest_img) * max(longest_txt)


def _check_upstream(comm: Comm, upstream: Tensor) -> None:
    """One rank's share in another's gradients assumes one factor for all: ValueError for different ones."""
    told = [{"upstream factor": f"{factor:g}"} for (factor,) in comm.all_gather("upstream", [upstream.item()])]
    check_agreement(told, "scale the loss by the same factor on every rank before the backward pass")


def _safe(sums: Tensor, positive: Tensor, shift: float) -> bool:
    """Whether no sum has lost terms to underflow or overflowed; the positive counts as one of the terms."""
    return contrastive_tiled.SMALLEST_SUM < (sums + torch.exp(positive - shift)).min().item() < math.inf
