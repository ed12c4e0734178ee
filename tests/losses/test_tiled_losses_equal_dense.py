"""Four forms of one number: whatever the tile, the dtype or the dial, tiled equals dense in value and all gradients.

The judge is always the dense loss in fp64, on the very inputs that the tested form received. Sizes sit around the
tile's edges, widths are odd, scales run from 1 to CLIP's cap of 100.
"""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.reference import TOLERANCE, assert_close, unit_rows, value_and_grads

from minilib import clip_loss, siglip_loss

BATCHES, DIMS, SCALES = [1, 2, 63, 64, 65, 127, 1000], [16, 96, 512, 640], [1.0, 14.3, 100.0]
GRID = list(itertools.product(BATCHES, DIMS, SCALES))


def clip(backend, **options):
    return lambda img, txt, scale: clip_loss(img, txt, scale, backend=backend, **options)


def siglip(backend, **options):
    return lambda img, txt, scale, bias: siglip_loss(img, txt, scale, bias, backend=backend, **options)


def check(loss, inputs, dtype, rounding=1e-15, **options):
    inputs = [x.to(dtype) for x in inputs]
    judge = value_and_grads(loss("dense"), *(x.double() for x in inputs))
    assert_close(value_and_grads(loss("tiled", **options), *inputs), judge, TOLERANCE[dtype], rounding)


def inputs(batch, dim, scale, bias=None):
    scalars = [scale] if bias is None else [scale, bias]
    return [unit_rows(batch, dim, 1), unit_rows(batch, dim, 2), *(torch.tensor(x).double() for x in scalars)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("batch", "dim", "scale"), GRID)
def test_tiled_clip_equals_dense(batch, dim, scale, dtype):
    check(clip, inputs(batch, dim, scale), dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("batch", "dim", "scale"), GRID)
def test_tiled_siglip_equals_dense(batch, dim, scale, dtype):
    check(siglip, inputs(batch, dim, scale, bias=-10.0), dtype)


@given(st.integers(1, 70), st.integers(1, 80), st.integers(0, 3), st.floats(0.5, 100))
def test_tiles_of_any_size_and_any_dial_agree(batch, tile_size, kept_tiles, scale):
    keep = kept_tiles * tile_size**2 * 8
    check(clip, inputs(batch, 12, scale), torch.float64, tile_size=tile_size, cache_bytes=keep)
    check(siglip, inputs(batch, 12, scale, -3.0), torch.float64, tile_size=tile_size)


@given(st.integers(2, 40), st.randoms(use_true_random=False))
def test_the_order_of_the_pairs_changes_nothing(batch, random):
    order = random.sample(range(batch), batch)
    img, txt, scale = inputs(batch, 16, 14.3)
    shuffled = value_and_grads(clip("tiled", tile_size=8), img[order], txt[order], scale)
    plain = value_and_grads(clip("tiled", tile_size=8), img, txt, scale)
    assert_close(shuffled, [plain[0], plain[1][order], plain[2][order], plain[3]], 1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_half_precision_features_accumulate_in_fp32(dtype, scale):
    img, txt, s = inputs(127, 96, scale)
    loss = clip_loss(img.to(dtype), txt.to(dtype), s, backend="tiled")
    assert loss.dtype == torch.float32
    check(clip, [img.to(dtype), txt.to(dtype), s.float()], dtype)
    judge = clip_loss(img.to(dtype).double(), txt.to(dtype).double(), s.to(dtype).double(), backend="dense")
    fp32_scale = clip_loss(img.to(dtype), txt.to(dtype), s.to(dtype).float(), backend="tiled")
    assert abs(fp32_scale.item() - judge.item()) <= 1e-5 * judge.item()  # only the inputs are rounded, no sum is


@pytest.mark.parametrize("cache_bytes", [0, math.inf])
@pytest.mark.parametrize("scale", [14.3, 100.0])
def test_bf16_gradient_products_stay_within_a_hundredth(cache_bytes, scale):
    img = unit_rows(300, 64, 1)
    noisy = [img, torch.nn.functional.normalize(img + 0.2 * unit_rows(300, 64, 2)), torch.tensor(scale).double()]
    judge = value_and_grads(clip("dense"), *noisy)
    options = {"tile_size": 64, "cache_bytes": cache_bytes, "grad_dtype": torch.bfloat16}
    got = value_and_grads(clip("tiled", **options), *(x.float() for x in noisy))
    assert_close(got, judge, 1e-2)
    assert abs(got[0].item() - judge[0].item()) < 1e-6 * (1 + judge[0].item())  # the loss itself is not rounded


CORNERS = {
    "aligned": lambda x: (x, x),
    "duplicated": lambda x: (x[torch.arange(len(x)) % 3], x[torch.arange(len(x)) % 3]),
    "antipodal": lambda x: (x, -x),
    "all one row": lambda x: (x[:1].expand_as(x), x[:1].expand_as(x)),
    "all opposite rows": lambda x: (x[:1].expand_as(x), -x[:1].expand_as(x)),
    "one row against": lambda x: (torch.cat([-x[:1], x[:1].expand(len(x) - 1, -1)]), x[:1].expand_as(x)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("corner", CORNERS)
def test_scale_100_stays_exact_in_the_corners(corner, dtype):
    img, txt = CORNERS[corner](unit_rows(40, 32))
    scalars = [torch.tensor(100.0).double()]
    img, txt, bias = img.contiguous(), txt.contiguous(), torch.tensor(-10.0).double()
    # Where all pulls cancel to zero, their rounding is left: scale / b per row, times 100 eps for a logit of 100.
    rounding = torch.finfo(dtype).eps * 100 * 100 / len(img) ** 0.5
    check(clip, [img, txt, *scalars], dtype, rounding, tile_size=16)
    check(siglip, [img, txt, *scalars, bias], dtype, rounding, tile_size=16)


def test_gradients_of_well_separated_pairs_do_not_cancel():
    # p_ii - 1 is about -1e-9 here: an fp32 probability rounds to 1, softplus of "negatives minus positive" does not.
    img = torch.eye(8, 16, dtype=torch.float64)
    scale = torch.tensor(22.0, dtype=torch.float64)
    judge = value_and_grads(clip("dense"), img, img, scale)
    tiled = value_and_grads(clip("tiled"), img.float(), img.float(), scale.float())
    dense = value_and_grads(clip("dense"), img.float(), img.float(), scale.float())
    assert 0 < judge[0].item() < 1e-8
    assert_close(tiled, judge, 1e-5)
    assert abs(dense[0].item() / judge[0].item() - 1) > 1e-2


@pytest.mark.parametrize("size", [3.0, 40.0])
def test_features_of_any_length_are_served_by_the_running_pair(size):
    # Logits up to 14.3 * size^2 = 22,880: no shared shift serves them, the general pair does.
    img, txt, scale = inputs(50, 8, 14.3)
    check(clip, [img * size, txt * size, scale], torch.float64, tile_size=16)
    check(clip, [img * size, txt * size, scale], torch.float32, tile_size=16)


def test_a_frozen_side_gets_no_gradient_and_the_other_one_is_unchanged():
    img, txt, scale = inputs(65, 16, 14.3)
    both = value_and_grads(clip("tiled"), img, txt, scale)
    for frozen in (0, 1):
        leaves = [img.clone(), txt.clone()]
        trained = leaves[1 - frozen].requires_grad_()
        s = scale.clone().requires_grad_()
        clip_loss(*leaves, s, backend="tiled").backward()
        assert leaves[frozen].grad is None
        torch.testing.assert_close(trained.grad, both[2 - frozen], rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(s.grad, both[3], rtol=1e-10, atol=1e-14)


def test_the_scale_alone_may_be_trained():
    img, txt, scale = inputs(65, 16, 14.3)
    for loss, extra in ((clip, []), (siglip, [torch.tensor(-4.0).double()])):
        s = scale.clone().requires_grad_()
        loss("tiled")(img, txt, s, *extra).backward()
        expected = value_and_grads(loss("dense"), img, txt, scale, *extra)[3]
        torch.testing.assert_close(s.grad, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("loss", [lambda i, t, s: clip_loss(i, t, s), lambda i, t, s: siglip_loss(i, t, s, -5.0)])
def test_the_loss_may_be_used_twice_and_walked_back_twice(loss):
    img, txt, scale = (x.requires_grad_() for x in inputs(33, 8, 14.3))
    value = loss(img, txt, scale)
    once = torch.autograd.grad(value, [img, txt, scale], retain_graph=True)
    again = torch.autograd.grad(value, [img, txt, scale], retain_graph=True)
    thrice = torch.autograd.grad(value + 2 * value, [img, txt, scale])
    for a, b, c in zip(once, again, thrice):
        assert torch.equal(a, b)
        torch.testing.assert_close(3 * a, c)


@pytest.mark.parametrize("loss", [clip_loss, lambda *a, **k: siglip_loss(*a, -5.0, **k)])
def test_without_grad_only_the_value_is_computed(loss):
    img, txt, scale = (x.requires_grad_() for x in inputs(33, 8, 14.3))
    with torch.no_grad():
        value = loss(img, txt, scale, backend="tiled")
    assert not value.requires_grad
    torch.testing.assert_close(value, loss(img, txt, scale, backend="dense").detach())


def test_gradcheck_agrees_with_finite_differences():
    img, txt, scale = (x.requires_grad_() for x in inputs(7, 5, 3.0))
    bias = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(clip("tiled", tile_size=3), (img, txt, scale))
    assert torch.autograd.gradcheck(siglip("tiled", tile_size=3), (img, txt, scale, bias))


def test_a_plain_number_serves_as_scale():
    img, txt, scale = inputs(9, 4, 14.3)
    assert clip_loss(img, txt, 14.3).item() == pytest.approx(clip_loss(img, txt, scale, backend="dense").item())


def test_autocast_does_not_round_the_logits():
    img, txt, scale = (x.float() for x in inputs(65, 64, 100.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for backend in ("dense", "tiled"):
            check_value = clip_loss(img, txt, scale, backend=backend)
            assert check_value.item() == pytest.approx(clip_loss(img, txt, scale, backend="dense").item(), rel=1e-5)
