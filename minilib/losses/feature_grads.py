"""What costs O(b d) next to the tiles: the positives, the scale's gradient, gradients in the dtype of their features.

    dL/dimg_i = s f [ (G txt)_i + e_i txt_i ]              dL/ds = f sum_i <img_i, (G txt)_i + e_i txt_i>

where
    G      gradient of the logits without its diagonal, from the tiles; f a common factor
    e_i    gradient of the positive i, p - 1 written as a sigmoid so that nothing cancels where p nears 1

The second formula is Euler's identity: the scale's gradient needs no tile. On a ring it holds for each rank's rows.
Taught in notebooks/04_tile_the_loss.ipynb.
"""

from functools import wraps

import torch
from torch import Tensor

PART = 2**14  # rows that these steps convert at a time


def first_order_only(backward):
    """A backward pass whose results raise when they are differentiated again, where torch's `once_differentiable` may
    stay silent: in `grad(loss, features, create_graph=True)` the upstream gradient needs no gradient itself.
    """

    @wraps(backward)
    def guarded(ctx, *upstream):
        with torch.no_grad():
            grads = backward(ctx, *upstream)
        if not torch.is_grad_enabled():  # nobody has asked for a graph of the gradients
            return grads
        reached = torch.ones((), requires_grad=True)
        return tuple(None if grad is None else _FirstOrder.apply(grad, reached) for grad in grads)

    return guarded


class _FirstOrder(torch.autograd.Function):
    """The gradient as it is, with a node in the graph that cannot be walked back through."""

    @staticmethod
    def forward(ctx, grad, reached):
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx, _):
        raise RuntimeError(
            "this loss has first derivatives only and its gradient was differentiated again: choose backend 'dense' "
            "(for logo_loss_from_hidden: logo_loss over token_logps with backend 'dense')."
        )


def as_multiplied(features: Tensor, backend: str) -> Tensor:
    """The features as a backend multiplies them: plain torch on a CPU would round results of half precision."""
    as_they_are = backend == "fused" or features.dtype in (torch.float64, torch.float32)
    return features if as_they_are else features.float()


def row_dots(a: Tensor, b: Tensor) -> Tensor:
    """<a_i, b_i> for every row (b,), multiplied and summed in fp32 at least, without a whole (b, d) temporary."""
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    # Half precision is widened part by part, so that no whole fp32 copy of the features exists.
    if a.dtype == b.dtype == dtype and not a.is_cuda:
        return torch.einsum("bd,bd->b", a, b)
    return torch.cat([(x.to(dtype) * y).sum(1) for x, y in zip(a.split(PART), b.split(PART))])


def empty_grads(img: Tensor, txt: Tensor, needed: tuple[bool, ...]) -> tuple[Tensor | None, Tensor | None]:
    """Zeroed gradients for the sides that need one, fp32 at least; the scale's gradient needs either of them."""
    # Sums over tiles are taken in fp32; the result is rounded to the dtype of the features once, at the end.
    dtype = torch.promote_types(img.dtype, torch.float32)
    only_scale = needed[2] and not (needed[0] or needed[1])
    wanted = (img, needed[0] or only_scale), (txt, needed[1])
    return tuple(empty_grad(side, dtype) if is_wanted else None for side, is_wanted in wanted)


def empty_grad(operand: Tensor, dtype: torch.dtype) -> Tensor:
    """A gradient to add to, in the dtype of the sums."""
    return torch.zeros(operand.shape, dtype=dtype, device=operand.device)


def finish(needed, img, txt, scale, img_grad, txt_grad, diagonal, factor):
    """Add the positives, read the scale's gradient off a feature gradient, apply the scale: O(b d), in place."""
    scale_grad, finished = None, []
    for own, partner, grad in ((img, txt, img_grad), (txt, img, txt_grad)):
        if grad is None:
            finished.append(None)
            continue
        # The positives that the tiles left out: e_i txt_i, one row each.
        grad.addcmul_(diagonal[:, None], partner)
        # Before the scale is applied, <img_i, grad_i> summed over i is the gradient of the scale (Euler).
        if scale_grad is None and needed[2]:
            scale_grad = row_dots(own, grad).sum(dtype=torch.float64).to(factor.dtype) * factor
        grad *= scale * factor
        finished.append(narrow(grad, own.dtype))
    return finished[0] if needed[0] else None, finished[1], scale_grad


def narrow(grad: Tensor, dtype: torch.dtype) -> Tensor:
    """The gradient in the dtype of its features, written over its own fp32 memory: no second (b, d) matrix."""
    if grad.dtype == dtype:
        return grad
    wide = grad.view(-1)
    small = wide.view(dtype)[: len(wide)]
    for source, target in zip(wide.split(PART * grad.shape[1]), small.split(PART * grad.shape[1])):
        target.copy_(source.to(dtype))  # what is overwritten has been read: part k starts at k in one, 2 k in the other
    return small.view(grad.shape)
