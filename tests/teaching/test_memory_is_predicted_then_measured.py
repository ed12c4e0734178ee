"""Bytes are first computed on paper, then measured, and the two agree.

The predictions are checked against two independent witnesses: autograd's own hooks for what waits between forward and
backward, and the resident memory of a fresh process for the peak. The tests also look at the instruments: a known
allocation must be measured right, and a large parent process must not hide what a small child does.
"""

import math

import pytest
import torch

from minilib import clip_loss
from minilib.teaching import memory, peak
from minilib.teaching.repro import random_features

MB = 10**6


def test_dense_needs_sixteen_bytes_for_every_pair_of_pairs():
    assert memory.dense_matrix_bytes(10) == 1600
    parts = memory.predict_bytes(4096, 512, backend="dense")
    assert parts["total"] == 16 * 4096**2 + 4 * 4096 * 512


@pytest.mark.parametrize("backend", ["dense", "tiled"])
def test_the_total_is_the_sum_of_the_named_parts(backend):
    parts = memory.predict_bytes(1000, 64, backend=backend, cache_bytes=5 * MB)
    assert parts.pop("total") == sum(parts.values())
    assert all(size >= 0 for size in parts.values())


def test_doubling_the_batch_quadruples_dense_and_doubles_tiled():
    ratio = {
        name: memory.predict_bytes(2**17, 512, backend=name)["total"]
        / memory.predict_bytes(2**16, 512, backend=name)["total"]
        for name in memory.BACKENDS
    }
    assert ratio["dense"] == pytest.approx(4, rel=0.01)
    assert ratio["tiled"] == pytest.approx(2, rel=0.05)


def test_cached_tiles_are_whole_and_never_more_than_all():
    tile = 512 * 1024 * 4
    kept = [
        memory.predict_bytes(2048, 64, backend="tiled", cache_bytes=size)["cached tiles"]
        for size in (0, tile - 1, tile, 3 * tile + 5, math.inf)
    ]
    assert kept == [0, 0, tile, 3 * tile, 2048 * 2048 * 4]


@pytest.mark.parametrize("batch", [1, 2, 31622, 31623, 10**6])
def test_the_largest_dense_batch_fits_and_the_next_does_not(batch):
    size = memory.dense_matrix_bytes(batch)
    assert memory.largest_dense_batch(size) == batch
    assert memory.largest_dense_batch(size - 1) == batch - 1


@pytest.mark.parametrize(("batch", "dim"), [(64, 16), (200, 33)])
def test_autograd_keeps_what_we_predict_for_dense(batch, dim):
    img, txt = (side.requires_grad_() for side in random_features(batch, dim))
    saved = memory.saved_bytes(lambda: clip_loss(img, txt, 14.3, backend="dense"), besides=(img, txt))
    # The rest is two vectors of 64-bit labels and a few scalars.
    assert 0 <= saved - 4 * memory.saved_numbers(batch, dim) <= 16 * batch + 100


def test_autograd_keeps_three_numbers_per_pair_for_tiled():
    img, txt = (side.requires_grad_() for side in random_features(500, 32))
    saved = memory.saved_bytes(lambda: clip_loss(img, txt, 14.3, backend="tiled", cache_bytes=0), besides=(img, txt))
    assert saved <= 4 * (4 * 500 + 10)


def test_a_storage_that_is_saved_twice_counts_once():
    x = torch.ones(100, requires_grad=True)
    assert memory.saved_bytes(lambda: (x * x + x * x).sum()) == 400
    assert memory.saved_bytes(lambda: (x * x + x * x).sum(), besides=(x,)) == 0
    assert memory.saved_bytes(lambda: (x.exp() * x.view(10, 10).reshape(-1)).sum(), besides=(x,)) == 400


def test_the_instrument_measures_a_known_allocation():
    size = peak.measure_peak("import array", "block = bytearray(50_000_000)")
    assert size == pytest.approx(50 * MB, rel=0.02)


def test_a_peak_counts_although_it_is_gone_again():
    size = peak.measure_peak("", "block = bytearray(40_000_000); del block; block = bytearray(10_000_000)")
    assert size == pytest.approx(40 * MB, rel=0.02)


def test_what_the_setup_used_does_not_count():
    setup = "block = bytearray(60_000_000); del block; held = bytearray(20_000_000)"
    assert peak.measure_peak(setup, "more = bytearray(30_000_000)") == pytest.approx(30 * MB, rel=0.03)


def test_a_large_parent_does_not_hide_what_the_child_adds():
    parent = bytearray(400_000_000)
    assert peak.measure_peak("", "block = bytearray(30_000_000)") == pytest.approx(30 * MB, rel=0.02)
    del parent


@pytest.mark.parametrize(("backend", "batch", "within"), [("dense", 2048, 0.10), ("tiled", 4096, 0.25)])
def test_the_measured_peak_is_near_the_prediction(backend, batch, within):
    predicted = memory.predict_bytes(batch, 256, backend=backend)["total"]
    measured = memory.measure_loss_peak(batch, 256, backend)
    assert measured == pytest.approx(predicted, rel=within)


def test_cached_tiles_show_in_the_measured_peak():
    without, everything = (memory.measure_loss_peak(2048, 64, "tiled", cache_bytes=size) for size in (0, math.inf))
    assert everything - without == pytest.approx(4 * 2048**2, rel=0.2)


def test_the_sigmoid_loss_can_be_measured_too():
    dense, tiled = (memory.measure_loss_peak(2048, 64, name, loss="siglip") for name in memory.BACKENDS)
    assert tiled < dense / 4


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (267_400_000, "267 MB"), (1_079_000_000, "1.1 GB"), (5e13, "50 TB")],
)
def test_bytes_are_written_for_a_reader(size, words):
    assert memory.format_bytes(size) == words


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: memory.predict_bytes(0, 8), "batch is 0"),
        (lambda: memory.predict_bytes(8, -1), "dim is -1"),
        (lambda: memory.predict_bytes(8, 8, backend="fast"), "backend is 'fast'"),
        (lambda: memory.measure_loss_peak(8, 8, "tiled", loss="mse"), "loss is 'mse'"),
        (lambda: memory.saved_numbers(0, 1), "batch is 0"),
    ],
)
def test_bad_input_raises_one_sentence(call, words):
    with pytest.raises(ValueError, match=words) as raised:
        call()
    assert ": pass" in str(raised.value) or ": choose" in str(raised.value)


def test_a_failing_child_says_why():
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        peak.measure_peak("", "1 / 0")
