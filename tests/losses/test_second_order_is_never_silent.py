"""A gradient that is differentiated again is either right or an error: a penalty on it is never ignored in silence.

`grad(loss, features, create_graph=True)` hands the backward pass an upstream gradient that needs no gradient itself,
which is where torch's `once_differentiable` says nothing. Dense losses are plain torch and have all derivatives.
"""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad

from minilib import clip_loss, siglip_loss, token_logps
from minilib.distributed.ring_comm import LocalRing
from minilib.losses.contrastive_ring import ring_clip_loss, ring_siglip_loss
from minilib.losses.logo_from_hidden import logo_loss_from_hidden
from minilib.trainers import cached_backward

torch.manual_seed(0)
A, Y = (F.normalize(torch.randn(8, 16), dim=1) for _ in range(2))
W, LABELS = torch.randn(30, 16), torch.arange(8)
ANSWER = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])


def over_ring(loss, *numbers):
    return lambda a: loss(LocalRing(2), list(a.split(4)), list(Y.split(4)), *numbers).mean()


CASES = {
    **{f"clip {name}": lambda a, b=name: clip_loss(a, Y, 10.0, backend=b) for name in ("tiled", "fused", "auto")},
    **{f"siglip {name}": lambda a, b=name: siglip_loss(a, Y, 10.0, -5.0, backend=b) for name in ("tiled", "fused")},
    "clip without a cache": lambda a: clip_loss(a, Y, 10.0, cache_bytes=0),
    "clip in bf16": lambda a: clip_loss(a, Y, 10.0, grad_dtype=torch.bfloat16),
    "clip over a ring": over_ring(ring_clip_loss, 10.0),
    "siglip over a ring": over_ring(ring_siglip_loss, 10.0, -5.0),
    "logps": lambda a: token_logps(a, W, LABELS).sum(),
    "logps, fused": lambda a: token_logps(a, W, LABELS, backend="fused").sum(),
    "logps, trained head": lambda a: token_logps(a, W.clone().requires_grad_(), LABELS).sum(),
    "logo from hidden states": lambda a: logo_loss_from_hidden(
        a, W, LABELS, ANSWER, num_rejected=1, beta=1.0, gamma=0.5
    )[0],
}


@pytest.mark.parametrize("case", CASES)
def test_a_gradient_that_is_differentiated_again_is_an_error(case):
    a = A.clone().requires_grad_()
    loss = CASES[case](a)
    (first,) = grad(loss, a, create_graph=True)
    assert torch.equal(first.detach(), grad(CASES[case](a), a)[0])  # the first derivative itself is as it was
    with pytest.raises(RuntimeError, match=r"first derivatives only .* choose backend 'dense'"):
        (loss + first.square().sum()).backward()


DENSE = {
    "clip": lambda a: clip_loss(a, Y, 10.0, backend="dense"),
    "siglip": lambda a: siglip_loss(a, Y, 10.0, -5.0, backend="dense"),
    "logps": lambda a: token_logps(a, W, LABELS, backend="dense").sum(),
}


@pytest.mark.parametrize("case", DENSE)
def test_dense_losses_have_second_derivatives(case):
    def penalty(a):
        (first,) = grad(DENSE[case](a), a, create_graph=True)
        return first.square().sum()

    assert torch.autograd.gradcheck(lambda a: penalty(a.float()), A.double().requires_grad_(), eps=1e-3, atol=5e-2)
    a = A.clone().requires_grad_()
    with_penalty, alone = grad(DENSE[case](a) + penalty(a), a)[0], grad(DENSE[case](a), a)[0]
    assert (with_penalty - alone).norm() > 0.1 * alone.norm()


def test_the_scale_and_the_head_are_guarded_too():
    scale = torch.tensor(10.0, requires_grad=True)
    (first,) = grad(clip_loss(A, Y, scale), scale, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        first.square().backward()
    weight = W.clone().requires_grad_()
    (first,) = grad(token_logps(A, weight, LABELS).sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        first.square().sum().backward()


def penalised(img, txt, backend):
    loss = clip_loss(img, txt, 10.0, backend=backend)
    (first,) = grad(loss, img, create_graph=True)
    return loss + first.square().sum()


def test_a_penalty_inside_the_gradient_cache_is_an_error_or_exact():
    tower = torch.nn.Linear(16, 16, bias=False)
    encoders, batches = [tower, tower], [A[:4], A[4:]]
    with pytest.raises(RuntimeError, match="first derivatives only"):
        cached_backward(encoders, batches, lambda img, txt: penalised(img, txt, "tiled"))
    tower.zero_grad()
    cached_backward(encoders, batches, lambda img, txt: penalised(img, txt, "dense"))
    cached = tower.weight.grad.clone()
    tower.zero_grad()
    penalised(tower(A), tower(A), "dense").backward()
    torch.testing.assert_close(cached, tower.weight.grad, rtol=1e-4, atol=1e-5)


def test_backward_with_a_graph_still_gives_the_gradient():
    a = A.clone().requires_grad_()
    clip_loss(a, Y, 10.0).backward(create_graph=True)
    assert torch.equal(a.grad.detach(), grad(clip_loss(a, Y, 10.0), a)[0])
