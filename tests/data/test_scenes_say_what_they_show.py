"""Proves that a caption is true of its picture, by reading the caption back from the pixels.

The reader below knows the palette and the twelve silhouettes but nothing about how scenes are drawn: it finds each
colour's connected patches, measures them, and writes the sentence itself. One picture has one caption, so the two
sentences must be equal word for word.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import find_objects, label

from minilib.data import render_scenes, scenes, scenes_dataset, vocabulary


def silhouettes() -> dict[tuple[str, str], np.ndarray]:
    """Every silhouette, trimmed to its own frame."""
    full = {}
    for size, row in zip(scenes.SIZES, scenes.stamps()):
        for shape, stamp in zip(scenes.SHAPES, row):
            full[size, shape] = stamp[stamp.any(1)][:, stamp.any(0)]
    return full


def read_objects(image: torch.Tensor) -> list[tuple[str, float, float]]:
    """The phrases seen in one picture with their middles (y, x)."""
    pixels, found = image.permute(1, 2, 0).numpy(), []
    for colour, rgb in scenes.COLOURS.items():
        patches, _ = label((pixels == rgb).all(-1), structure=np.ones((3, 3)))
        for number, box in enumerate(find_objects(patches), start=1):
            seen = patches[box] == number
            kind = [k for k, s in silhouettes().items() if s.shape == seen.shape and (s == seen).all()]
            assert len(kind) == 1, "a patch that is no silhouette: objects hide or touch each other"
            y, x = ((part.start + part.stop - 1) / 2 for part in box)
            found.append((f"a {kind[0][0]} {colour} {kind[0][1]}", y, x))
    return found


def read_caption(image: torch.Tensor) -> str:
    """The sentence of a picture: objects row by row; more than five pixels apart counts as another row or column."""
    objects = read_objects(image)
    side = image.shape[-1]
    objects.sort(key=lambda o: (int(o[1] * 3 / side), int(o[2] * 3 / side)))
    words = [objects[0][0]]
    for (_, y, x), (phrase, y2, x2) in pairwise(objects):
        down, right = y2 - y > 5, x2 - x
        assert y2 - y > -5, "the second object stands above the first"
        relation = ("above" if down else "") + (" and " if down and abs(right) > 5 else "")
        relation += "left of" if right > 5 else "right of" if right < -5 else ""
        words += [relation + " of" if relation.endswith(("left", "right")) else relation, phrase]
    return " ".join(words)


def test_every_caption_can_be_read_back_from_the_pixels():
    images, captions = render_scenes(300, seed=3)
    assert [read_caption(image) for image in images] == captions


def test_every_relation_and_every_kind_occurs():
    _, captions = render_scenes(4000, seed=1)
    text = " | ".join(captions)
    assert all(kind in text for kind in scenes.KINDS)
    pairs = {tuple(r for r in sorted(scenes.RELATIONS, key=len, reverse=True) if f" {r} a " in c) for c in captions}
    assert {r for pair in pairs for r in pair} == set(scenes.RELATIONS)


def test_the_background_is_all_that_is_left_beside_the_objects():
    images, captions = render_scenes(200, seed=5)
    colours = {tuple(rgb) for rgb in images.permute(0, 2, 3, 1).reshape(-1, 3).unique(dim=0).tolist()}
    assert colours <= {*scenes.COLOURS.values(), scenes.BACKGROUND}
    assert any(caption.count(" a ") == 2 for caption in captions), "no scene of three objects was drawn"


def test_the_twelve_silhouettes_differ_and_mirror_images_agree():
    shapes = silhouettes()
    assert len({(s.shape, s.tobytes()) for s in shapes.values()}) == len(shapes) == 12
    for (_, name), stamp in shapes.items():
        assert (stamp == stamp[:, ::-1]).all(), f"{name} leans to one side"


def test_sixty_five_thousand_captions_never_repeat():
    images, captions = render_scenes(65_536)
    assert images.shape == (65_536, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert len(set(captions)) == 65_536


def test_repeats_come_when_they_are_allowed():
    _, captions = render_scenes(500, objects=(1, 1), unique=False)
    assert len(captions) == 500
    assert len(set(captions)) <= 120  # no more kinds exist


def test_all_unique_scenes_can_be_had_and_not_one_more():
    _, captions = render_scenes(120, objects=(1, 1))
    assert sorted(captions) == sorted(scenes.KINDS)
    with pytest.raises(ValueError, match=r"only 120 exist"):
        render_scenes(121, objects=(1, 1))


def test_the_number_of_captions_is_counted_not_guessed():
    assert scenes.number_of_captions() == 120 + 120**2 * 4 + 120**3 * 16
    assert scenes.number_of_captions((2, 2)) == 57_600


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**40), st.integers(1, 60), st.integers(60, 120))
def test_scene_k_does_not_depend_on_how_many_are_asked_for(seed, few, many):
    images, captions = render_scenes(many, seed=seed, objects=(1, 2))
    fewer, first = render_scenes(few, seed=seed, objects=(1, 2))
    assert captions[:few] == first
    assert torch.equal(images[:few], fewer)


def test_more_than_one_block_of_draws_keeps_the_prefix():
    _, many = render_scenes(40_000, objects=(2, 2))
    _, few = render_scenes(5_000, objects=(2, 2))
    assert many[:5_000] == few


def test_other_seeds_give_other_scenes():
    assert render_scenes(20, seed=0)[1] != render_scenes(20, seed=1)[1]


def test_captions_stay_within_the_vocabulary_and_twenty_words():
    _, captions = render_scenes(3000)
    assert {word for caption in captions for word in caption.split()} == set(vocabulary())
    assert max(len(caption.split()) for caption in captions) == 20


@pytest.mark.parametrize("image_size", [32, 48, 64])
def test_larger_pictures_show_the_same_scene(image_size):
    images, captions = render_scenes(5, image_size=image_size)
    assert images.shape == (5, 3, image_size, image_size)
    assert captions == render_scenes(5)[1]
    share = (images != torch.tensor(scenes.BACKGROUND, dtype=torch.uint8)[:, None, None]).any(1).float().mean()
    small = (render_scenes(5)[0] != torch.tensor(scenes.BACKGROUND, dtype=torch.uint8)[:, None, None]).any(1).float()
    assert abs(share - small.mean()) < 0.05


def test_a_dataset_gives_batches_of_tensors_and_captions():
    images, captions = render_scenes(64)
    dataset = scenes_dataset(64)
    picks = [5, 63, 0, 5]
    rows = dataset[picks]
    assert torch.equal(rows["image"], images[picks])
    assert rows["caption"] == [captions[k] for k in picks]
    assert dataset.select([7])[0]["caption"] == captions[7]
    assert torch.equal(dataset.shuffle(seed=0).filter(lambda row: row["caption"] == captions[9])[0]["image"], images[9])
    assert list(dataset["caption"]) == captions


@pytest.mark.parametrize(
    ("settings_", "error", "says"),
    [
        ({"count": 0}, ValueError, "count must be at least 1, got 0"),
        ({"count": 2.5}, TypeError, r"count must be an integer of at least 1, got 2\.5"),
        ({"count": 1, "seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"count": 1, "image_size": 16}, ValueError, "image_size must be at least 32, got 16"),
        ({"count": 1, "objects": (0, 3)}, ValueError, r"objects must be a pair .* got \(0, 3\)"),
        ({"count": 1, "objects": (3, 2)}, ValueError, r"objects must be a pair .* got \(3, 2\)"),
        ({"count": 1, "objects": 2}, TypeError, r"objects must be a pair .* got 2"),
        ({"count": 1, "objects": "13"}, TypeError, r"objects must be a pair .* got '13'"),
    ],
)
def test_bad_input_is_named_in_one_sentence(settings_, error, says):
    with pytest.raises(error, match=says):
        render_scenes(**settings_)
