"""A step on a GPU stands still whenever the host asks for a number: how often a contrastive loss asks is counted here.

Every question goes through one of a few operations of torch, which a dispatch mode sees on a CPU as well.
"""

import math

import pytest
import torch
from support.reference import refused, unit_rows
from torch.utils._python_dispatch import TorchDispatchMode

from minilib import clip_loss, siglip_loss
from minilib.kernels import contrastive_kernels

ASKS = {"_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique", "equal"}
IMG, TXT = unit_rows(48, 32, 1, torch.float32), unit_rows(48, 32, 2, torch.float32)


class Questions(TorchDispatchMode):
    """How often the host has asked for what a device has computed."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket.__name__ in ASKS
        return function(*args, **(kwargs or {}))


def asked(run):
    with Questions() as questions:
        run()
    return questions.count


def leaves(*values):
    return [value.clone().requires_grad_() for value in values]


def clip(backend, **options):
    img, txt, scale = leaves(IMG, TXT, torch.tensor(14.3))
    return lambda: clip_loss(img, txt, scale, backend=backend, **options).backward()


def siglip(backend, **options):
    img, txt, scale, bias = leaves(IMG, TXT, torch.tensor(14.3), torch.tensor(-10.0))
    return lambda: siglip_loss(img, txt, scale, bias, backend=backend, **options).backward()


@pytest.mark.parametrize(
    ("step", "backend", "checked"),
    # One look at all inputs; InfoNCE then asks whether a sum has vanished, and the tiled backend for its shift.
    [(clip, "tiled", 3), (clip, "fused", 2), (siglip, "tiled", 1), (siglip, "fused", 1)],
)
def test_all_inputs_are_looked_at_in_one_question_and_in_none_without_the_check(step, backend, checked):
    if backend == "fused":
        pytest.importorskip("triton")
    assert asked(step(backend)) == checked
    assert asked(step(backend, check=False)) == checked - 1


def test_the_fused_kernels_take_scale_shift_and_bias_from_the_device():
    pytest.importorskip("triton")
    kernels = contrastive_kernels("fused")
    scale, bias = torch.tensor(14.3), torch.tensor(-10.0)

    def visits():
        shift = kernels.shared_shift(IMG, TXT, scale)
        rows, cols = kernels.shifted_sums(IMG, TXT, scale, shift)
        grads = torch.zeros_like(IMG), torch.zeros_like(TXT)
        kernels.shifted_grads(IMG, TXT, scale, shift, 1 / rows, 1 / cols, grads)
        kernels.pair_grads(IMG, TXT, scale, *kernels.pair_sums(IMG, TXT, scale), grads)
        kernels.sigmoid_visit(IMG, TXT, scale, bias, grads)

    assert asked(visits) == 0


def test_without_the_check_numbers_that_are_not_finite_reach_the_loss():
    bad = IMG.clone()
    bad[3, 1] = math.nan
    refused(ValueError, "image_features has NaN or infinity in row 3", lambda: clip_loss(bad, TXT, 14.3))
    assert clip_loss(bad, TXT, 14.3, check=False).isnan()
    refused(ValueError, "logit_bias is nan", lambda: siglip_loss(IMG, TXT, 14.3, math.nan))
