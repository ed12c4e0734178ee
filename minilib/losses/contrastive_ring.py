"""The contrastive losses over a ring of ranks: shares of one loss whose average is the loss of all pairs.

With n ranks, b pairs in all, and rank p holding the pairs P_p:

    share_p = n/b sum_{i in P_p} [ softplus(r'_i - X_ii) + softplus(c'_i - X_ii) ] / 2           (InfoNCE)
    share_p = n/b sum_{i in P_p} [ softplus(-Z_ii) + sum_{j != i} softplus(Z_ij) ]               (SigLIP)
    mean_p share_p = the loss of one process with all pairs

where the symbols are those of `contrastive`, rows and columns running over all b pairs. The gradients handed back are

    features    of the sum of all shares: what a rank's pairs do to the rows of the others is theirs to mend
    scale       the own rows' part of it, n/b sum_{i in P_p} <img_i, dimg_i>, and likewise the bias

so that averaging any parameter's gradient over the ranks, as DistributedDataParallel does, is exact.

Departure from the paper: the released code sums the gradient of the scale over the ranks, which an average over ranks
afterwards leaves n times too large. Adam hides it, clipping by the gradient norm does not.

`ring_clip_loss` takes a ring from `minilib.distributed.ring_comm`: a virtual one with the pairs of all ranks, or a
process ring with those of this process. `clip_loss(..., group=...)` is the latter. Taught in
notebooks/06_pass_tiles_around_a_ring.ipynb.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from minilib.distributed import ring_comm as wire
from minilib.kernels import contrastive_tiled as tiled
from minilib.kernels import ring_visits
from minilib.kernels.ring import Place, Program
from minilib.kernels.ring_visits import Local
from minilib.losses._greeting import Greeting, greet, same_upstream, tell
from minilib.losses.contrastive import kernels_of
from minilib.losses.feature_grads import empty_grads, finish, row_dots
from minilib.losses.validation import check_contrastive, check_ring, scalar

Ring = wire.VirtualRing | wire.ProcessRing


def ring_clip_loss(
    ring: Ring,
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

    Args:
        ring: `wire.VirtualRing(n)`, whose ranks all live here, or `wire.ProcessRing(group)`, where k = 1.
        images, texts: features `(m, d)` of each of these ranks; m may differ from rank to rank.
        logit_scale, tile_size, grad_dtype: as in `clip_loss`; `cache_bytes` must be 0 or "auto".
        backend: what a rank works with on one block, "tiled" or "fused"; "auto" chooses.

    Raises:
        ValueError, TypeError: one sentence, also where ranks disagree. ConnectionError: when a rank is lost.
    """
    with _refusals(ring):
        local, scale, features = _check(ring, images, texts, logit_scale, backend, tile_size, cache_bytes, grad_dtype)
    return _RingClip.apply(ring, local, scale, torch.is_grad_enabled(), *features)


def ring_siglip_loss(
    ring: Ring,
    images: Sequence[Tensor],
    texts: Sequence[Tensor],
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    backend: str = "auto",
    tile_size: int | None = None,
) -> Tensor:
    """Shares `(k,)` of the pairwise sigmoid loss; args and errors as `ring_clip_loss`."""
    with _refusals(ring):
        local, scale, features = _check(ring, images, texts, logit_scale, backend, tile_size)
        bias = scalar("logit_bias", logit_bias, features[0])
    return _RingSiglip.apply(ring, local, scale, bias, torch.is_grad_enabled(), *features)


def _check(ring, images, texts, logit_scale, backend, tile_size, cache_bytes="auto", grad_dtype=None):
    """The local work, the scale as a tensor, and the features of the ranks here, image and text in turn."""
    if not len(images) == len(texts) == len(ring.here):
        raise ValueError(
            f"images holds {len(images)} shards and texts {len(texts)}: {len(ring.here)} ranks live in this process, "
            "give the features of each."
        )
    check_ring(backend, cache_bytes, ring.ranks)
    for img, txt in zip(images, texts):
        chosen = check_contrastive(img, txt, backend, tile_size, ring, cache_bytes, grad_dtype)
        ring.check_device(img.device)
    local = Local(kernels_of(chosen), tile_size, {"grad_dtype": grad_dtype} if grad_dtype else {})
    return (
        local,
        scalar("logit_scale", logit_scale, images[0]),
        [f for pair in zip(images, texts) for f in pair],
    )


@contextmanager
def _refusals(ring: Ring) -> Iterator[None]:
    """A rank that refuses its own inputs says so to the others, who would wait for it otherwise."""
    try:
        yield
    except (ValueError, TypeError):
        if isinstance(ring, wire.ProcessRing):
            with suppress(ConnectionError):
                ring.run([tell(Greeting(accepted=0, rows=0))])
        raise


class _RingClip(torch.autograd.Function):
    """Two sweeps of the ring; saves the features, three numbers per own pair and one per column of the whole matrix."""

    @staticmethod
    def forward(ctx, ring, local, scale, with_grad, *features):
        needed = _needed(ctx.needs_input_grad[4:], scale, with_grad)
        programs = [_clip_sums(*rank, scale, local) for rank in zip(ring.here, _pairs(features), needed)]
        with torch.autocast(scale.device.type, enabled=False):
            ranks = ring.run(programs)
        ctx.ring, ctx.local, ctx.needed = ring, local, needed
        ctx.places, ctx.shifts = [rank.place for rank in ranks], [rank.shift for rank in ranks]
        ctx.save_for_backward(scale, *(tensor for rank in ranks for tensor in rank.saved))
        return torch.stack([rank.share for rank in ranks])  # (k,)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        scale, *saved = ctx.saved_tensors
        saved = zip(*[iter(saved)] * (len(saved) // len(ctx.places)))  # of each rank
        ranks = zip(ctx.places, saved, ctx.shifts, ctx.needed, upstream)
        with torch.autocast(scale.device.type, enabled=False):
            grads = ctx.ring.run([_clip_grads(*rank, scale, ctx.local) for rank in ranks])
        features = [side for rank in grads for side in rank[:2]]
        return None, None, _total([rank[2] for rank in grads]), None, *features


class _RingSiglip(torch.autograd.Function):
    """One sweep of the ring, gradients included: there is no normaliser to wait for."""

    @staticmethod
    def forward(ctx, ring, local, scale, bias, with_grad, *features):
        needed = _needed(ctx.needs_input_grad[5:], scale, with_grad)
        programs = [_sigmoid(*rank, scale, bias, local) for rank in zip(ring.here, _pairs(features), needed)]
        with torch.autocast(scale.device.type, enabled=False):
            ranks = ring.run(programs)
        ctx.ring, ctx.needed, ctx.places = ring, needed, [rank.place for rank in ranks]
        ctx.save_for_backward(scale, *(tensor for rank in ranks for tensor in rank.saved))
        return torch.stack([rank.share for rank in ranks])  # (k,)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        scale, *saved = ctx.saved_tensors
        saved = zip(*[iter(saved)] * (len(saved) // len(ctx.places)))
        ranks = zip(ctx.places, saved, ctx.needed, upstream)
        grads = ctx.ring.run([_sigmoid_grads(*rank, scale) for rank in ranks])
        features = [side for rank in grads for side in rank[:2]]
        scales, biases = zip(*(rank[2:] for rank in grads))
        return None, None, _total(scales), _total(biases) if ctx.needs_input_grad[3] else None, None, *features


class _Swept(NamedTuple):
    """What one rank brings home from its forward sweep."""

    share: Tensor
    place: Place
    shift: float | None
    saved: tuple[Tensor | None, ...]


def _clip_sums(rank, features, needed, scale, local) -> Program:
    img, txt = features
    place, bound = yield from greet(rank, "clip_loss", img, txt, needed, local, scale)
    positive = scale * row_dots(img, txt)  # (m,)
    sums = yield from ring_visits.clip_sums(place, img, txt, scale, positive, tiled.shift_for(bound), local)
    terms = F.softplus(torch.stack([sums.rows - positive, sums.cols - positive]), threshold=50)  # (2, m)
    share = terms.sum() * (place.ranks / (2 * place.pairs))
    return _Swept(share, place, sums.shift, (img, txt, sums.rows, sums.cols, sums.all_cols, positive))


def _clip_grads(place, saved, shift, needed, upstream, scale, local) -> Program:
    img, txt, rows, cols, all_cols, positive = saved
    yield from same_upstream(place, upstream)
    img_grad = _img_grad(img, needed)
    row_lse = torch.logaddexp(rows, positive)  # with the diagonal, as `all_cols`
    txt_grad = yield from ring_visits.clip_grads(
        place, img, txt, scale, row_lse, all_cols, shift, img_grad, needed[1], local
    )
    diagonal = -torch.sigmoid(rows - positive) - torch.sigmoid(cols - positive)  # (m,)
    factor = upstream * (place.ranks / (2 * place.pairs))
    return finish(needed, img, txt, scale, img_grad, txt_grad, diagonal, factor)


def _sigmoid(rank, features, needed, scale, bias, local) -> Program:
    img, txt = features
    place, _ = yield from greet(rank, "siglip_loss", img, txt, needed, local, scale, bias)
    img_grad = _img_grad(img, needed)
    loss, slope, txt_grad = yield from ring_visits.sigmoid_visit(
        place, img, txt, scale, bias, img_grad, needed[1], local
    )
    positive = scale * row_dots(img, txt) + bias  # (m,)
    diagonal = -torch.sigmoid(-positive)
    share = (loss + F.softplus(-positive, threshold=50).sum()) * (place.ranks / place.pairs)
    return _Swept(share, place, None, (img, txt, img_grad, txt_grad, diagonal, slope + diagonal.sum()))


def _sigmoid_grads(place, saved, needed, upstream, scale) -> Program:
    img, txt, *grads, diagonal, slope = saved
    yield from same_upstream(place, upstream)
    factor = upstream * (place.ranks / place.pairs)
    copies = [None if grad is None else grad.clone() for grad in grads]
    return *finish(needed, img, txt, scale, *copies, diagonal, factor), slope * factor


def _needed(flags, scale, with_grad) -> list[tuple[bool, bool, bool]]:
    return [(img and with_grad, txt and with_grad, scale.requires_grad and with_grad) for img, txt in _pairs(flags)]


def _img_grad(img, needed) -> Tensor | None:
    only_scale = needed[2] and not needed[1]
    return empty_grads(img, img, (needed[0], False, only_scale))[0]


def _pairs(items: Sequence) -> list[tuple]:
    return list(zip(items[::2], items[1::2]))


def _total(grads: Sequence[Tensor | None]) -> Tensor | None:
    return None if grads[0] is None else torch.stack(list(grads)).sum(0)
