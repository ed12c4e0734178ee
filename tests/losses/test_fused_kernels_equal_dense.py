"""The kernels, run by Triton's interpreter where there is no GPU, equal dense in value and all gradients.

The judge is the dense loss in fp64 on the very inputs that the kernels received. Batches sit around the edges of the
interpreter's 64 x 64 tiles and of the 2 x 2 grid of programs; widths are odd; scales run from 1 to CLIP's cap of 100.
"""

import itertools
import math
import os
import subprocess
import sys

import pytest
import torch
from support.reference import FUSED_TOLERANCE, assert_close, refused, unit_rows, value_and_grads
from test_tiled_losses_equal_dense import CORNERS
from torch.utils.flop_counter import FlopCounterMode

from minilib import clip_loss, siglip_loss
from minilib.kernels import contrastive_tiled as tiled
from minilib.losses import validation

pytest.importorskip("triton", reason="the fused kernels need triton, which this machine does not have")
from minilib.kernels import contrastive_fused as fused
from minilib.kernels import triton_launch as launch

DEVICE = "cpu" if launch.INTERPRETED else "cuda"
HALVES = [torch.float16] if launch.INTERPRETED else [torch.float16, torch.bfloat16]
# On a GPU, fp32 features are multiplied as three TF32 products.
FP32 = FUSED_TOLERANCE[torch.float32] if launch.INTERPRETED else 1e-4

BATCHES, DIMS = [1, 16, 63, 64, 65, 100, 127, 200], [16, 96, 384, 512, 640, 768, 1000]
SCALES = [1.0, 14.3, 100.0]
# Every batch meets every width; the scale goes round, so that each third of the grid has every pair of settings.
GRID = [
    pytest.param(batch, dim, scale, marks=() if (i + j + k) % 3 == 0 else pytest.mark.slow)
    for (i, batch), (j, dim), (k, scale) in itertools.product(*map(enumerate, (BATCHES, DIMS, SCALES)))
]


def clip(backend, **options):
    return lambda img, txt, scale: clip_loss(img, txt, scale, backend=backend, **options)


def siglip(backend, **options):
    return lambda img, txt, scale, bias: siglip_loss(img, txt, scale, bias, backend=backend, **options)


def inputs(batch, dim, scale, bias=None, dtype=torch.float32):
    features = [unit_rows(batch, dim, seed, dtype).to(DEVICE) for seed in (1, 2)]
    return [*features, *(torch.tensor(x, device=DEVICE) for x in (scale, bias) if x is not None)]


def check(loss, inputs, tolerance=FP32, rounding=1e-15, **options):
    judge = value_and_grads(loss("dense"), *(x.double() for x in inputs))
    got = value_and_grads(loss("fused", **options), *inputs)
    assert [g.dtype for g in got] == [torch.float32, *(x.dtype for x in inputs)]
    assert_close(got, judge, tolerance, rounding)


@pytest.mark.parametrize(("batch", "dim", "scale"), GRID)
def test_fused_clip_equals_dense(batch, dim, scale):
    check(clip, inputs(batch, dim, scale))


@pytest.mark.parametrize(("batch", "dim", "scale"), GRID)
def test_fused_siglip_equals_dense(batch, dim, scale):
    check(siglip, inputs(batch, dim, scale, bias=-10.0))


@pytest.mark.parametrize("dim", [1, 15, 2048, 5003])
def test_any_width_fits_since_a_tile_walks_along_it(dim):
    check(clip, inputs(33, dim, 14.3))
    check(siglip, inputs(33, dim, 14.3, bias=-10.0))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("scale", SCALES)
def test_half_precision_features_are_multiplied_raw_and_only_the_result_is_rounded(scale, dtype):
    for loss, extra in ((clip, []), (siglip, [-10.0])):
        given = inputs(127, 96, scale, *extra, dtype=dtype)
        check(loss, given, FUSED_TOLERANCE[dtype])
        judge = loss("dense")(*(x.double() for x in given)).item()
        assert loss("fused")(*given).item() == pytest.approx(judge, rel=FP32)


@pytest.mark.parametrize("chunk", [16, 64, 100, 8192])
def test_chunks_of_any_size_agree(chunk):
    check(clip, inputs(130, 40, 14.3), tile_size=chunk)
    check(siglip, inputs(130, 40, 14.3, -3.0), tile_size=chunk)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_padding_poisoned_with_nan_changes_nothing(dtype):
    plain = inputs(100, 72, 30.0, dtype=dtype)
    poisoned = [torch.full((164, 200), math.nan, dtype=dtype, device=DEVICE) for _ in range(2)]
    for buffer, features in zip(poisoned, plain):
        buffer[:100, :72] = features
    views = [buffer[:100, :72] for buffer in poisoned]
    for loss, extra in ((clip, []), (siglip, [torch.tensor(-5.0, device=DEVICE)])):
        expected = [loss("fused")(*plain, *extra), *grads(loss("fused"), *plain, *extra)]
        got = [loss("fused")(*views, plain[2], *extra), *grads(loss("fused"), *views, plain[2], *extra)]
        assert all(torch.equal(a, b) for a, b in zip(got, expected))


def grads(loss, img, txt, *scalars):
    leaves = [img.detach().requires_grad_(), txt.detach().requires_grad_()]  # the views themselves, not copies
    return torch.autograd.grad(loss(*leaves, *scalars), leaves)


GUARDED = """
import ctypes, mmap, torch
from minilib import clip_loss, siglip_loss

def at_the_end_of_memory(rows, dim):
    # the page behind the features may not be touched: reading past the last row ends the process
    size = -(-rows * dim * 4 // mmap.PAGESIZE) * mmap.PAGESIZE
    pages = mmap.mmap(-1, size + mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + size), mmap.PAGESIZE, 0) == 0
    features = torch.frombuffer(pages, dtype=torch.float32, count=rows * dim, offset=size - rows * dim * 4)
    return features.view(rows, dim).copy_(torch.nn.functional.normalize(torch.randn(rows, dim))).requires_grad_()

img, txt = at_the_end_of_memory(65, 33), at_the_end_of_memory(65, 33)
(clip_loss(img, txt, 14.3, backend="fused") + siglip_loss(img, txt, 14.3, -5.0, backend="fused")).backward()
(clip_loss(img * 1, txt, 1e5, backend="fused")).backward()
print("untouched")
"""


@pytest.mark.skipif(not launch.INTERPRETED or sys.platform != "linux", reason="guards pages of main memory, on Linux")
def test_nothing_behind_the_last_row_is_read():
    result = subprocess.run([sys.executable, "-c", GUARDED], capture_output=True, text=True)
    assert result.stdout.strip() == "untouched", result.stderr


@pytest.mark.parametrize("scale", [1.0, 14.3, 70.0, 100.0])
def test_the_shift_is_that_of_the_tiled_backend_and_stays_a_tensor(scale):
    given = inputs(20, 8, scale)
    shift = fused.shared_shift(*given)
    assert shift.shape == ()
    assert shift.item() == pytest.approx(tiled.shared_shift(*given), abs=1e-4)


@pytest.mark.parametrize("corner", CORNERS)
def test_scale_100_stays_exact_in_the_corners(corner):
    img, txt = (x.contiguous().to(DEVICE) for x in CORNERS[corner](unit_rows(70, 32, dtype=torch.float32)))
    scale, bias = torch.tensor(100.0, device=DEVICE), torch.tensor(-10.0, device=DEVICE)
    # Where all pulls cancel to zero, their rounding is left: scale / b per row, times 100 eps for a logit of 100.
    rounding = torch.finfo(torch.float32).eps * 100 * 100 / len(img) ** 0.5
    check(clip, [img, txt, scale], 1e-5, rounding)
    check(siglip, [img, txt, scale, bias], 1e-5, rounding)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_gradients_of_well_separated_pairs_do_not_cancel(dtype):
    img = torch.eye(8, 16, dtype=dtype, device=DEVICE)  # p_ii - 1 is about -1e-9
    scale = torch.tensor(22.0, device=DEVICE)
    value, *_ = value_and_grads(clip("fused"), img, img, scale)
    assert 0 < value.item() < 1e-8
    judge = value_and_grads(clip("dense"), img.double(), img.double(), scale.double())
    got = value_and_grads(lambda i, t, s: 1e6 * clip("fused")(i, t, s), img, img, scale)  # within the range of fp16
    # The negatives' part of the gradient, 1e-10 each, lies at the very end of fp16's range even after its 2^14.
    assert_close(got, [1e6 * j for j in judge], 2e-3 if dtype == torch.float16 else 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_logits_beyond_any_shift_are_served_by_the_running_pair(dtype, monkeypatch):
    served = []
    for name in ("pair_sums", "pair_grads"):
        kernel = getattr(fused, name)
        monkeypatch.setattr(fused, name, lambda *a, k=kernel, n=name, **o: (served.append(n), k(*a, **o))[1])
    img, txt, scale = inputs(70, 8, 14.3)
    given = [(img * 40).to(dtype), (txt * 40).to(dtype), scale]
    check(clip, given, tolerance=3e-3, rounding=1e-6)  # a logit of 22,880 is known to 2e-3 in fp32, and so is its exp
    assert served == ["pair_sums", "pair_grads"]


def test_results_repeat_bit_by_bit():
    given = inputs(200, 48, 14.3)
    first, second = (value_and_grads(clip("fused"), *given) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def exact_block(img, txt, scale, paired):
    logits = scale.double() * img.double() @ txt.double().T
    if paired:
        logits.diagonal().fill_(-math.inf)
    return logits


@pytest.mark.parametrize("kernels", [tiled, fused])
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(("rows", "cols"), [(100, 70), (64, 130), (1, 65)])
def test_a_block_may_be_rectangular_and_foreign(kernels, paired, rows, cols):
    img, txt, scale = (
        unit_rows(rows, 24, 1).float().to(DEVICE),
        unit_rows(cols, 24, 2).float().to(DEVICE),
        inputs(1, 1, 20.0)[2],
    )
    logits = exact_block(img, txt, scale, paired)
    shift = kernels.shared_shift(img, txt, scale)
    sums = kernels.shifted_sums(img, txt, scale, shift, paired=paired)
    pairs = kernels.pair_sums(img, txt, scale, paired=paired)
    expected = logits.logsumexp(1), logits.logsumexp(0)
    for got, pair, true in zip(sums, pairs, expected):
        torch.testing.assert_close(got.log() + shift, true.float(), rtol=0, atol=1e-4 if DEVICE == "cuda" else 1e-5)
        torch.testing.assert_close(pair, true.float(), rtol=0, atol=1e-4 if DEVICE == "cuda" else 1e-5)
    weights = [torch.rand(size, device=DEVICE) for size in (rows, cols)]
    check_grads(kernels, img, txt, scale, logits, weights, paired)


def check_grads(kernels, img, txt, scale, logits, weights, paired):
    """All three gradient visits of one block against G txt and G^T img in fp64."""
    weighted = logits.exp() * (weights[0].double()[:, None] + weights[1].double())
    both = (logits + weights[0].double()[:, None].log()).exp() + (logits + weights[1].double().log()).exp()
    options = {"tile_size": 48, "paired": paired}
    bias = torch.tensor(-2.0, device=DEVICE)
    visits = {
        "shifted": (weighted, lambda out: kernels.shifted_grads(img, txt, scale, 0.0, *weights, out, **options)),
        "pairs": (both, lambda out: kernels.pair_grads(img, txt, scale, *(-w.log() for w in weights), out, **options)),
        "sigmoid": ((logits - 2).sigmoid(), lambda out: kernels.sigmoid_visit(img, txt, scale, bias, out, **options)),
    }
    for name, (grad, visit) in visits.items():
        out = torch.zeros_like(img), torch.zeros_like(txt)
        visit(out)
        for got, true in zip(out, (grad @ txt.double(), grad.T @ img.double())):
            assert (got - true).norm() <= (1e-4 if DEVICE == "cuda" else 3e-6) * true.norm(), name


PRODUCTS = [
    ("softmax", clip, (True, True), 1 + 1, 2),
    ("softmax, frozen images", clip, (False, True), 1 + 1, 1),
    ("softmax, frozen texts", clip, (True, False), 1 + 1, 1),
    ("softmax, value only", clip, (False, False), 1, 0),
    ("sigmoid", siglip, (True, True), 1, 2),
    ("sigmoid, frozen images", siglip, (False, True), 1, 1),
    ("sigmoid, value only", siglip, (False, False), 1, 0),
]


@pytest.mark.parametrize(
    ("loss", "trained", "visits", "library"), [c[1:] for c in PRODUCTS], ids=[c[0] for c in PRODUCTS]
)
def test_four_products_for_softmax_three_for_sigmoid(loss, trained, visits, library, monkeypatch):
    seen, original = [], fused.launch
    monkeypatch.setattr(
        fused, "launch", lambda n, img, txt, *a, **k: (seen.append(len(img) * len(txt)), original(n, img, txt, *a, **k))
    )
    batch, dim = 200, 16
    img, txt, *scalars = inputs(batch, dim, 14.3, *([-10.0] if loss is siglip else []))
    img.requires_grad_(trained[0])
    txt.requires_grad_(trained[1])
    with FlopCounterMode(display=False) as counter:
        value = loss("fused", tile_size=100)(img, txt, *scalars)
        if any(trained):
            value.backward()
    assert sum(seen) == visits * batch**2
    assert counter.get_total_flops() / (2 * batch**2 * dim) == pytest.approx(library, abs=0.01)


@pytest.mark.parametrize("loss", [clip_loss, lambda *a, **k: siglip_loss(*a, -5.0, **k)])
def test_the_loss_may_be_used_twice_walked_back_twice_and_without_grad(loss):
    img, txt, scale = (x.requires_grad_() for x in inputs(33, 8, 14.3))
    value = loss(img, txt, scale, backend="fused")
    once = torch.autograd.grad(value, [img, txt, scale], retain_graph=True)
    thrice = torch.autograd.grad(value + 2 * value, [img, txt, scale])
    for a, b in zip(once, thrice):
        torch.testing.assert_close(3 * a, b)
    with torch.no_grad():
        torch.testing.assert_close(loss(img, txt, scale, backend="fused"), value.detach())


def test_autocast_does_not_round_the_logits():
    given = inputs(65, 64, 100.0)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        value = clip_loss(*given, backend="fused")
    assert value.item() == pytest.approx(clip_loss(*given, backend="dense").item(), rel=1e-5)


REFUSALS = {
    "fp64": (torch.float64, {}, TypeError, "image_features is torch.float64: the fused backend takes fp32"),
    "kept tiles": (torch.float32, {"cache_bytes": 100}, ValueError, "cache_bytes is 100 and backend 'fused'"),
    "low products": (torch.float32, {"grad_dtype": torch.bfloat16}, ValueError, "grad_dtype is torch.bfloat16 and"),
    "bf16": (torch.bfloat16, {}, TypeError, "image_features is torch.bfloat16: Triton's interpreter"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_the_kernels_do_not_take_is_refused_in_one_sentence(case):
    dtype, options, error, words = REFUSALS[case]
    if case == "bf16" and not launch.INTERPRETED:
        pytest.skip("a GPU multiplies bf16; only the interpreter refuses it")
    img, txt, scale = inputs(6, 4, 14.3, dtype=dtype)
    refused(error, words, lambda: clip_loss(img, txt, scale, backend="fused", **options))


def test_without_triton_the_fused_backend_says_what_to_install(monkeypatch):
    monkeypatch.setattr(validation.importlib.util, "find_spec", lambda name: None)
    img, txt, scale = inputs(6, 4, 14.3)
    refused(ValueError, "triton is not installed", lambda: clip_loss(img, txt, scale, backend="fused"))


def test_on_a_cpu_without_the_interpreter_the_refusal_names_the_variable_to_set():
    script = "import torch, minilib; x = torch.eye(4); minilib.clip_loss(x, x, 1.0, backend='fused')"
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "ValueError: image_features is on cpu and backend 'fused' needs a CUDA GPU: set TRITON_INTERPRET=1"
    )
