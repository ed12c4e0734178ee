"""A lesson that is run twice draws the same numbers: seeds pin every generator, one thread pins the order of sums."""

import random

import numpy as np
import pytest
import torch

from minilib.teaching import repro


def draws():
    return random.random(), float(np.random.rand()), torch.rand(3).tolist()


def test_one_seed_repeats_all_three_generators():
    repro.seed_everything(7)
    first = draws()
    repro.seed_everything(7)
    assert draws() == first
    repro.seed_everything(8)
    assert draws() != first


def test_the_last_line_of_a_setup_cell_shows_nothing():
    assert repro.seed_everything(0) is None


def test_threads_can_be_set():
    before = torch.get_num_threads()
    repro.set_threads(1)
    assert torch.get_num_threads() == 1
    repro.set_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_example_features_are_unit_rows_that_repeat(dtype):
    img, txt = repro.random_features(9, 5, seed=3, dtype=dtype)
    again, _ = repro.random_features(9, 5, seed=3, dtype=dtype)
    assert img.shape == txt.shape == (9, 5)
    assert img.dtype == dtype
    assert torch.equal(img, again)
    torch.testing.assert_close(img.norm(dim=1), torch.ones(9, dtype=dtype))


def test_the_match_says_how_much_partners_resemble_each_other():
    means = []
    for match in (0.0, 0.5, 1.0):
        img, txt = repro.random_features(200, 32, match=match)
        means.append((img * txt).sum(1).mean().item())
    assert means[0] == pytest.approx(0, abs=0.05)
    assert means[0] < means[1] < means[2]
    assert means[2] == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: repro.seed_everything(-1), "seed is -1"),
        (lambda: repro.set_threads(0), "count is 0"),
        (lambda: repro.random_features(2, 2, match=1.5), "match is 1.5"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
