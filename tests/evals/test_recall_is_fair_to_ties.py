"""Proves that the tiled recall is the recall of a plain ranking, and that ties earn chance and nothing more.

The judge sorts every row of the full matrix in numpy. For ties it does so in many random orders: what the library says
in one formula must be the average over those orders.
"""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from minilib.data import render_digits, scenes_dataset
from minilib.data.rows import as_dataset
from minilib.evals import evaluate_retrieval, recall_at_k
from minilib.models import TwoTowers


def brute_force(x: np.ndarray, groups: np.ndarray, k: int) -> float:
    """Mean over rows of: is a correct column among the k largest? No ties expected."""
    top = np.argsort(-x, axis=1)[:, :k]
    return (groups[top] == groups[:, None]).any(1).mean()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 40), st.booleans(), st.integers(0, 10**6))
def test_tiles_of_any_size_rank_like_a_sort(batch, tile, grouped, seed):
    generator = torch.Generator().manual_seed(seed)
    img, txt = (torch.randn(batch, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    groups = torch.randint(0, max(1, batch // 3), (batch,), generator=generator) if grouped else torch.arange(batch)
    found = recall_at_k(img, txt, (1, 3, 10), tile_size=tile, groups=groups if grouped else None)
    x = (img @ txt.T).numpy()
    for k in (1, 3, 10):
        assert found["image_to_text"][k] == pytest.approx(brute_force(x, groups.numpy(), k))
        assert found["text_to_image"][k] == pytest.approx(brute_force(x.T, groups.numpy(), k))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 10**6), st.booleans())
def test_a_tie_counts_as_the_average_over_all_orders_of_the_equals(batch, k, seed, grouped):
    generator = np.random.default_rng(seed)
    img, txt = (generator.integers(-1, 2, (batch, 2)).astype(float) for _ in range(2))  # exact, so ties are exact
    groups = generator.integers(0, 3, batch) if grouped else np.arange(batch)
    x = img @ txt.T
    hits = []
    for order in itertools.permutations(range(batch)):  # every way to break every tie
        order = list(order)
        top = np.argsort(-x[:, order], axis=1, kind="stable")[:, :k]
        hits.append((groups[np.array(order)[top]] == groups[:, None]).any(1).mean())
    found = recall_at_k(torch.tensor(img), torch.tensor(txt), (k,), tile_size=3, groups=torch.tensor(groups))
    assert found["image_to_text"][k] == pytest.approx(np.mean(hits))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [16, 63, 640])
@pytest.mark.parametrize("tile", [7, 64, 1024])
def test_collapsed_features_score_chance_and_not_a_hundred_per_cent(tile, dim, dtype):
    # Ragged tiles and odd widths round differently: bit-equal comparison would call some of these equals better.
    generator = torch.Generator().manual_seed(0)
    img, txt = (F.normalize(torch.randn(1, dim, generator=generator), dim=-1).to(dtype) for _ in range(2))
    found = recall_at_k(img.repeat(333, 1), txt.repeat(333, 1), (1, 5, 10), tile_size=tile)
    for way in found.values():
        assert way == pytest.approx({1: 1 / 333, 5: 5 / 333, 10: 10 / 333})


def test_half_precision_features_are_compared_in_single_precision():
    img, txt = (F.normalize(torch.randn(200, 32), dim=-1).bfloat16() for _ in range(2))
    assert recall_at_k(img, txt) == recall_at_k(img.float(), txt.float())


def test_perfect_features_score_one_and_shifted_ones_nothing():
    eye = torch.eye(50)
    assert recall_at_k(eye, eye, (1,))["text_to_image"][1] == 1
    assert recall_at_k(eye, eye.roll(1, 0), (1,))["text_to_image"][1] == 0


def test_more_places_than_items_find_everything():
    img, txt = torch.randn(5, 3), torch.randn(5, 3)
    assert recall_at_k(img, txt, (5, 10))["image_to_text"] == {5: 1.0, 10: 1.0}


def test_equal_captions_are_correct_for_each_other():
    img = torch.eye(4)
    txt = torch.eye(4)[[1, 0, 2, 3]]  # rows 0 and 1 find each other's caption
    assert recall_at_k(img, txt, (1,))["image_to_text"][1] == 0.5
    groups = torch.tensor([7, 7, 1, 2])
    assert recall_at_k(img, txt, (1,), groups=groups)["image_to_text"][1] == 1


def test_the_full_matrix_is_never_held():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.seen = max(self.seen, result.numel())
            return result

    img, txt = torch.randn(600, 4), torch.randn(600, 4)
    with Largest() as largest:
        recall_at_k(img, txt, tile_size=64)
    assert largest.seen == max(64 * 64, 600 * 4)


def test_a_model_is_evaluated_without_gradients_and_left_as_it_came():
    torch.manual_seed(0)
    model, dataset = TwoTowers(dropout=0.3), scenes_dataset(50)
    cut = evaluate_retrieval(model, dataset, micro_batch_size=7, progress=False)
    whole = evaluate_retrieval(model, dataset, micro_batch_size=50, progress=False)
    assert cut["image_to_text"].keys() == {1, 5, 10}
    assert cut == whole
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    evaluate_retrieval(model.eval(), dataset, progress=False)
    assert not model.training


def test_the_mode_is_restored_when_the_model_fails():
    class Broken(nn.Module):
        def encode_image(self, images):
            raise RuntimeError("no")

    model = Broken()
    with pytest.raises(RuntimeError, match="no"):
        evaluate_retrieval(model, scenes_dataset(3), progress=False)
    assert model.training


def test_repeated_captions_of_a_set_count_as_one_group():
    images, captions = render_digits(40, digits=1)

    class ByCaption(nn.Module):
        """Knows the caption and nothing else: perfect only if every picture of a seven may answer to "seven"."""

        def encode_text(self, texts):
            names = sorted(set(captions))
            return F.one_hot(torch.tensor([names.index(text) for text in texts]), len(names)).float()

        def encode_image(self, pictures):
            places = [next(k for k in range(40) if torch.equal(images[k], picture)) for picture in pictures]
            return self.encode_text([captions[k] for k in places])

    found = evaluate_retrieval(ByCaption(), as_dataset(images, captions), micro_batch_size=9, progress=False)
    assert found["image_to_text"][1] == found["text_to_image"][1] == 1


class ByImage(nn.Module):
    """Perfect towers: an image and a caption that begins with its number have one feature, which no other one has."""

    def __init__(self, pictures):
        super().__init__()
        self.known = {picture.numpy().tobytes(): k for k, picture in enumerate(pictures)}

    def encode_image(self, images):
        return F.one_hot(
            torch.tensor([self.known[image.numpy().tobytes()] for image in images]), len(self.known)
        ).float()

    def encode_text(self, captions):
        return F.one_hot(torch.tensor([int(text.split()[0]) for text in captions]), len(self.known)).float()


@pytest.mark.parametrize("micro", [7, 50])
def test_rows_that_share_an_image_are_one_image(micro):
    """Ten images with five captions each, which perfect towers find all, both ways."""
    pictures = render_digits(10, digits=1)[0] + torch.arange(10, dtype=torch.uint8)[:, None, None, None]
    rows = torch.arange(10).repeat(5)  # the captions of an image lie far from each other
    table = as_dataset(pictures[rows], [f"{k} caption {n}" for n, k in enumerate(rows.tolist())])
    found = evaluate_retrieval(ByImage(pictures), table, micro_batch_size=micro, progress=False)
    assert found == {way: {1: 1.0, 5: 1.0, 10: 1.0} for way in ("image_to_text", "text_to_image")}


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 17), st.integers(0, 10**6))
def test_shared_images_and_captions_rank_like_a_sort(rows, tile, seed):
    """The judge has one row for each image and knows by a set which captions it has."""
    generator = torch.Generator().manual_seed(seed)
    images, groups = (torch.randint(0, max(1, rows // 2), (rows,), generator=generator) for _ in range(2))
    features = torch.randn(rows, 6, generator=generator, dtype=torch.float64)[images]
    txt = torch.randn(rows, 6, generator=generator, dtype=torch.float64)
    found = recall_at_k(features, txt, (1, 3), tile_size=tile, groups=groups, images=images)
    held = set(zip(images.tolist(), groups.tolist()))
    unique = images.unique()
    first = torch.stack([features[images == k][0] for k in unique])
    correct = np.array([[(int(k), int(g)) in held for g in groups] for k in unique])
    x = (first @ txt.T).numpy()
    for k in (1, 3):
        there = np.take_along_axis(correct, np.argsort(-x, axis=1)[:, :k], 1).any(1).mean()
        back = np.take_along_axis(correct.T, np.argsort(-x.T, axis=1)[:, :k], 1).any(1).mean()
        assert found["image_to_text"][k] == pytest.approx(there)
        assert found["text_to_image"][k] == pytest.approx(back)


def test_collapsed_features_score_chance_among_images():
    img, txt = torch.ones(50, 3), torch.ones(50, 3)
    found = recall_at_k(img, txt, (1, 5), images=torch.arange(10).repeat_interleave(5))
    assert found["text_to_image"] == pytest.approx({1: 1 / 10, 5: 5 / 10})
    assert found["image_to_text"][1] == pytest.approx(5 / 50)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image_features": torch.zeros(3)}, r"image_features must be floating point with shape \(b, d\)"),
        ({"text_features": torch.zeros(4, 2, dtype=torch.int64)}, "text_features must be floating point"),
        ({"text_features": torch.zeros(3, 2)}, r"got \(4, 2\) and \(3, 2\)"),
        ({"image_features": torch.zeros(0, 2), "text_features": torch.zeros(0, 2)}, "one non-empty shape"),
        ({"image_features": torch.tensor([[0.0], [float("nan")]])}, "NaN or inf first in row 1"),
        ({"ks": ()}, r"ks must hold whole numbers of at least 1, got \(\)"),
        ({"ks": (1, 0)}, r"ks must hold whole numbers of at least 1, got \(1, 0\)"),
        ({"tile_size": 0}, "tile_size must be an integer of at least 1, got 0"),
        ({"groups": torch.zeros(3, dtype=torch.int64)}, r"groups must be integers with shape \(4,\)"),
        ({"images": torch.zeros(3, dtype=torch.int64)}, r"images must be integers with shape \(4,\)"),
        ({"groups": torch.zeros(4)}, r"groups must be integers with shape \(4,\), got torch.float32"),
    ],
)
def test_bad_input_is_named_in_one_sentence(change, says):
    with pytest.raises(ValueError, match=says):
        recall_at_k(**{"image_features": torch.zeros(4, 2), "text_features": torch.zeros(4, 2), **change})


def test_bad_datasets_are_named_in_one_sentence():
    model = TwoTowers()
    with pytest.raises(ValueError, match=r"dataset must have the columns image and caption, got \['image'\]"):
        evaluate_retrieval(model, scenes_dataset(3).remove_columns("caption"), progress=False)
    with pytest.raises(ValueError, match="dataset must hold at least one pair"):
        evaluate_retrieval(model, scenes_dataset(3).select([]), progress=False)
    with pytest.raises(ValueError, match="micro_batch_size must be an integer of at least 1, got 0"):
        evaluate_retrieval(model, scenes_dataset(3), micro_batch_size=0, progress=False)
