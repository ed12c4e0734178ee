"""A product is one b x b x d matrix multiplication; their number is the speed of a design, and it can be counted.

Counted by torch's own FlopCounterMode over loss and backward together. What costs O(b d), such as the b positive pairs,
shows up as at most a few thousandths of a product at this size.
"""

import math

import pytest
import torch
from support.reference import unit_rows
from torch.utils.flop_counter import FlopCounterMode

from minilib import clip_loss, siglip_loss
from minilib.distributed.ring_comm import LocalRing
from minilib.losses.contrastive_ring import ring_clip_loss, ring_siglip_loss

BATCH, DIM = 1536, 16
THIRD = 2 * 512 * 1024 * 4  # bytes of two tiles of six


class CountedRing(LocalRing):
    """A ring that counts the operations of every rank on its own thread, where torch's counter must be, too."""

    flops = 0

    def run(self, function, *per_rank):
        def counted(comm, *args):
            with FlopCounterMode(display=False) as counter:
                result = function(comm, *args)
            CountedRing.flops += counter.get_total_flops()
            return result

        return super().run(counted, *per_rank)


def products(loss, image_grad=True, text_grad=True):
    CountedRing.flops = 0
    img = unit_rows(BATCH, DIM, 1, torch.float32).requires_grad_(image_grad)
    txt = unit_rows(BATCH, DIM, 2, torch.float32).requires_grad_(text_grad)
    scale = torch.tensor(14.3, requires_grad=image_grad or text_grad)
    with FlopCounterMode(display=False) as counter:
        value = loss(img, txt, scale)
        if value.requires_grad:
            value.backward()
    return (counter.get_total_flops() + CountedRing.flops) / (2 * BATCH**2 * DIM)


def over_a_ring(loss, img, txt, *numbers):
    """The loss on four local ranks with shards of different sizes: all their products are counted."""
    shards = [768, 256, 384, 128]
    return loss(CountedRing(4), img.split(shards), txt.split(shards), *numbers).mean()


CASES = [
    ("dense", lambda *a: clip_loss(*a, backend="dense"), {}, 3),
    ("tiled", lambda *a: clip_loss(*a, backend="tiled", cache_bytes=0), {}, 4),
    ("frozen images", lambda *a: clip_loss(*a, backend="tiled", cache_bytes=0), {"image_grad": False}, 3),
    ("frozen texts", lambda *a: clip_loss(*a, backend="tiled", cache_bytes=0), {"text_grad": False}, 3),
    (
        "value only",
        lambda *a: clip_loss(*a, backend="tiled", cache_bytes=0),
        {"image_grad": False, "text_grad": False},
        1,
    ),
    ("tiles kept by default", clip_loss, {}, 3),
    ("all tiles kept", lambda *a: clip_loss(*a, backend="tiled", cache_bytes=math.inf), {}, 3),
    ("a third of the tiles kept", lambda *a: clip_loss(*a, backend="tiled", cache_bytes=THIRD), {}, 4 - 1 / 3),
    ("bf16 gradients", lambda *a: clip_loss(*a, backend="tiled", cache_bytes=0, grad_dtype=torch.bfloat16), {}, 4),
    ("sigmoid dense", lambda *a: siglip_loss(*a, -10.0, backend="dense"), {}, 3),
    ("sigmoid tiled", lambda *a: siglip_loss(*a, -10.0, backend="tiled"), {}, 3),
    ("sigmoid frozen", lambda *a: siglip_loss(*a, -10.0, backend="tiled"), {"image_grad": False}, 2),
    ("ring", lambda *a: over_a_ring(ring_clip_loss, *a), {}, 4),
    ("ring, frozen images", lambda *a: over_a_ring(ring_clip_loss, *a), {"image_grad": False}, 3),
    ("ring, frozen texts", lambda *a: over_a_ring(ring_clip_loss, *a), {"text_grad": False}, 3),
    ("ring, value only", lambda *a: over_a_ring(ring_clip_loss, *a), {"image_grad": False, "text_grad": False}, 1),
    ("ring, sigmoid", lambda *a: over_a_ring(ring_siglip_loss, *a, -10.0), {}, 3),
    ("ring, sigmoid frozen", lambda *a: over_a_ring(ring_siglip_loss, *a, -10.0), {"text_grad": False}, 2),
]


@pytest.mark.parametrize(("loss", "grads", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_the_number_of_products_is_what_the_design_says(loss, grads, expected):
    assert products(loss, **grads) == pytest.approx(expected, abs=5e-3)
