"""Proves that a strip of digits shows scans of its own split under their true names, and that files are read whole.

Every file used here is written by the test that reads it: a folder of images, JSON Lines, Parquet and Arrow tables.
"""

import json

import numpy as np
import pytest
import torch
from datasets import Array3D, Dataset, Features, Image, Value
from PIL import Image as Pillow

from minilib.data import digits_dataset, load_pairs, render_digits, scenes_dataset
from minilib.data.digits import NAMES, source_digits


def find_scans(strip: torch.Tensor, split: str) -> list[list[int]]:
    """For a strip of four digits (each then shown pixel for pixel): the labels of the scans that look exactly so."""
    scans, labels = source_digits(split)
    parts = strip[0, 12:20].split(8, dim=1)  # four (8, 8) pieces
    return [labels[(scans == part.numpy()).all((1, 2))].tolist() for part in parts]


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_digit_of_a_strip_is_a_scan_of_its_split_under_its_name(split):
    images, captions = render_digits(50, digits=4, split=split)
    for image, caption in zip(images, captions):
        found = find_scans(image, split)
        assert [NAMES[labels[0]] for labels in found] == caption.split()


def test_no_handwriting_is_in_both_splits():
    (train, train_labels), (test, test_labels) = source_digits("train"), source_digits("test")
    assert (len(train), len(test)) == (1438, 359)
    assert {s.tobytes() for s in train}.isdisjoint({s.tobytes() for s in test})
    for labels in (train_labels, test_labels):
        share = np.bincount(labels, minlength=10) / len(labels)
        assert share.min() > 0.08
        assert share.max() < 0.12


@pytest.mark.parametrize("digits", [1, 2, 3, 4])
def test_strips_fit_the_frame_and_the_caption_has_a_word_for_each_digit(digits):
    images, captions = render_digits(30, digits=digits)
    assert images.shape == (30, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert (images[:, 0] == images[:, 2]).all()
    assert {len(caption.split()) for caption in captions} == {digits}
    assert images.amax((1, 2, 3)).min() > 150  # ink everywhere


def test_strip_k_does_not_depend_on_how_many_are_asked_for():
    images, captions = render_digits(100, seed=4)
    fewer, first = render_digits(30, seed=4)
    assert captions[:30] == first
    assert torch.equal(images[:30], fewer)


def test_all_unique_strips_can_be_had_and_not_one_more():
    assert len(set(render_digits(100, digits=2, unique=True)[1])) == 100
    with pytest.raises(ValueError, match="only 100 captions exist"):
        render_digits(101, digits=2, unique=True)


def test_a_dataset_of_strips_gives_the_same_batches():
    images, captions = render_digits(20, split="test")
    rows = digits_dataset(20, split="test")[[3, 1]]
    assert torch.equal(rows["image"], images[[3, 1]])
    assert rows["caption"] == [captions[3], captions[1]]


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"count": 0}, ValueError, "count must be at least 1"),
        ({"count": "5"}, TypeError, "count must be an integer"),
        ({"count": 5, "seed": -3}, ValueError, "seed must be at least 0"),
        ({"count": 5, "split": "dev"}, ValueError, r"split must be one of \('train', 'test'\), got 'dev'"),
        ({"count": 5, "digits": 0}, ValueError, "digits must be at least 1"),
        ({"count": 5, "digits": 5}, ValueError, "digits=5 do not fit .* at most 4 digits"),
        ({"count": 5, "image_size": 31}, ValueError, "image_size must be at least 32"),
    ],
)
def test_bad_settings_of_strips_are_named_in_one_sentence(settings, error, says):
    with pytest.raises(error, match=says):
        render_digits(**settings)


COLOURS = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]


@pytest.fixture
def folder(tmp_path):
    """Three pictures of one colour each, of different shapes, with their captions."""
    for k, colour in enumerate(COLOURS):
        Pillow.new("RGB", (40 + 10 * k, 60), colour).save(tmp_path / f"{k}.png")
    write_lines(tmp_path / "metadata.jsonl", [{"file_name": f"{k}.png", "caption": f"picture {k}"} for k in range(3)])
    return tmp_path


def write_lines(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))


def assert_the_three_pictures(pairs, size=32):
    rows = pairs[:]
    assert rows["caption"] == ["picture 0", "picture 1", "picture 2"]
    expected = torch.tensor(COLOURS, dtype=torch.uint8)[:, :, None, None].expand(3, 3, size, size)
    assert torch.equal(rows["image"], expected)


def test_a_folder_with_metadata_is_read(folder, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    assert_the_three_pictures(load_pairs(folder, cache_dir=cache))
    assert_the_three_pictures(load_pairs(str(folder), image_size=48, cache_dir=cache), size=48)


def test_json_lines_with_paths_and_names_of_your_own_are_read(folder):
    write_lines(folder / "mine.jsonl", [{"file": f"{k}.png", "text": f"picture {k}", "more": k} for k in range(3)])
    pairs = load_pairs(folder / "mine.jsonl", image_column="file", caption_column="text", cache_dir=folder / "cache")
    assert pairs.column_names == ["image", "caption"]
    assert_the_three_pictures(pairs)


def test_a_loaded_dataset_of_images_or_of_arrays_is_read(folder):
    captions = [f"picture {k}" for k in range(3)]
    paths = [str(folder / f"{k}.png") for k in range(3)]
    images = Dataset.from_dict({"image": paths, "caption": captions}).cast_column("image", Image())
    assert_the_three_pictures(load_pairs(images))
    arrays = np.broadcast_to(np.uint8(COLOURS)[:, None, None, :], (3, 40, 40, 3))
    kind = Features({"image": Array3D((40, 40, 3), "uint8"), "caption": Value("string")})
    assert_the_three_pictures(load_pairs(Dataset.from_dict({"image": arrays, "caption": captions}, features=kind)))


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_parquet_and_arrow_files_with_the_images_inside_are_read(folder, ending):
    table = load_pairs_as_bytes(folder)
    if ending == "parquet":
        table.to_parquet(str(folder / "pairs.parquet"))
        source = folder / "pairs.parquet"
    else:
        table.save_to_disk(str(folder / "saved"))
        source = next((folder / "saved").glob("*.arrow"))
    assert_the_three_pictures(load_pairs(source, cache_dir=folder / "cache"))


def load_pairs_as_bytes(folder) -> Dataset:
    rows = [{"bytes": (folder / f"{k}.png").read_bytes(), "path": None} for k in range(3)]
    kind = Features({"image": Image(), "caption": Value("string")})
    return Dataset.from_dict({"image": rows, "caption": [f"picture {k}" for k in range(3)]}, features=kind)


def test_scenes_pass_through_unchanged():
    scenes = scenes_dataset(12)
    assert torch.equal(load_pairs(scenes)[:]["image"], scenes[:]["image"])


def test_a_changed_picture_is_read_anew(folder):
    write_lines(folder / "mine.jsonl", [{"image": "0.png", "caption": "a"}])
    first = load_pairs(folder / "mine.jsonl", cache_dir=folder / "cache")[0]["image"]
    Pillow.new("L", (32, 32), 77).save(folder / "0.png")
    second = load_pairs(folder / "mine.jsonl", cache_dir=folder / "cache")[0]["image"]
    assert first[0, 0, 0] == 250
    assert (second == 77).all()


def test_a_row_without_a_field_is_named_by_its_number(folder):
    path = folder / "mine.jsonl"
    write_lines(path, [{"image": "0.png", "caption": "a"}, {"image": "1.png"}])
    with pytest.raises(ValueError, match="source has no 'caption' in row 1"):
        load_pairs(path, cache_dir=folder / "cache")
    write_lines(path, [{"image": "0.png", "caption": "a"}, {"image": "1.png", "caption": "b"}, {"caption": "c"}])
    with pytest.raises(ValueError, match="source has no 'image' in row 2"):
        load_pairs(path, cache_dir=folder / "cache")


def test_a_caption_that_is_no_text_is_named_by_its_row(folder):
    with pytest.raises(ValueError, match="source has a int as 'caption' in row 0"):
        load_pairs(Dataset.from_dict({"image": [str(folder / "0.png")], "caption": [7]}))


def test_an_unreadable_image_is_named_by_its_row(folder):
    (folder / "1.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"unreadable 'image' in row 1 \(UnidentifiedImageError\)"):
        load_pairs(folder, cache_dir=folder / "cache")


def test_an_array_that_is_no_picture_is_named_by_its_row():
    with pytest.raises(ValueError, match=r"unreadable 'image' in row 0 \(TypeError\), values from -0.5 to 0.25"):
        load_pairs(Dataset.from_dict({"image": [[[-0.5, 0.25]]], "caption": ["a"]}))


def test_a_metadata_line_without_its_file_is_named(folder):
    write_lines(folder / "metadata.jsonl", [{"file_name": "lost.png", "caption": "a"}])
    with pytest.raises(ValueError, match=r"unreadable 'image' in row 0 \(FileNotFoundError\)"):
        load_pairs(folder, cache_dir=folder / "cache")


def test_a_wrong_column_name_lists_those_that_exist(folder):
    with pytest.raises(ValueError, match=r"source has no column 'text', only \['image', 'caption'\]"):
        load_pairs(folder, caption_column="text", cache_dir=folder / "cache")


def test_other_bad_sources_are_named_in_one_sentence(folder):
    with pytest.raises(ValueError, match="does not exist"):
        load_pairs(folder / "nowhere")
    with pytest.raises(TypeError, match=r"source must be a path or a datasets\.Dataset, got int"):
        load_pairs(3)
    with pytest.raises(ValueError, match="image_size must be at least 8"):
        load_pairs(folder, image_size=4)
    (folder / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match="is of no known kind"):
        load_pairs(folder / "notes.txt")
    (folder / "broken.jsonl").write_text('{"image": \n')
    with pytest.raises(ValueError, match="could not be read"):
        load_pairs(folder / "broken.jsonl", cache_dir=folder / "cache")
    (folder / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="could not be read"):
        load_pairs(folder / "empty.jsonl", cache_dir=folder / "cache")
    with pytest.raises(ValueError, match="at least one pair"):
        load_pairs(Dataset.from_dict({"image": [], "caption": []}))
    for name in ("metadata.jsonl", "broken.jsonl", "empty.jsonl", "notes.txt"):
        (folder / name).unlink()
    with pytest.raises(ValueError, match=r"no captions: add a metadata\.jsonl"):
        load_pairs(folder)
