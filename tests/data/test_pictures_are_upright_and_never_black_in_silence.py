"""Pictures of every mode, depth and layout come out upright and with their own brightness, or the reason is said."""

import io

import numpy as np
import pytest
import torch
from datasets import Array2D, Array3D, Dataset, Features, Value
from PIL import Image
from support.reference import refused

from minilib.data import load_pairs
from minilib.data.images import pixels_of, read_picture

GREY = np.tile(np.linspace(0, 255, 16).round().astype(np.uint8), (16, 1))  # from black to white, left to right


def encoded(picture, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def red_above_blue(orientation: int) -> bytes:
    """A JPEG whose stored pixels are turned, with the tag that says so."""
    upright = np.zeros((32, 32, 3), np.uint8)
    upright[:16, :, 0], upright[16:, :, 2] = 250, 250
    turns = {1: 0, 3: 2, 6: 1, 8: 3}
    stored = Image.fromarray(np.rot90(upright, turns[orientation]))
    tags = Image.Exif()
    tags[0x0112] = orientation
    return encoded(stored, "JPEG", exif=tags, quality=95)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_pictures_are_turned_as_their_camera_says(orientation):
    pixels = np.asarray(read_picture(red_above_blue(orientation)))
    assert pixels[4, :, 0].min() > 200
    assert pixels[-4, :, 2].min() > 200


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(GREY),
        Image.fromarray(GREY).convert("LA"),
        Image.fromarray(GREY).convert("RGBA"),
        Image.fromarray(GREY).convert("P"),
        Image.fromarray(GREY.astype(np.uint16) * 257),
        Image.fromarray(GREY.astype(np.uint16)),
    ],
    ids=["L", "LA", "RGBA", "P", "16 bits", "8 bits kept in 16"],
)
def test_png_of_every_mode_keeps_its_brightness(picture):
    found = np.asarray(read_picture(encoded(picture)))
    assert found.shape == (16, 16, 3)
    assert np.abs(found.astype(int) - GREY[..., None]).max() <= 1


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray((GREY / 255).astype(np.float32)),
        Image.fromarray(GREY.astype(np.float32)),
        Image.fromarray(GREY.astype(np.int32) * 257),
        Image.fromarray(GREY > 127),
        Image.fromarray(GREY).convert("RGB").convert("CMYK"),
    ],
    ids=["floats to 1", "floats to 255", "32 bits", "1 bit", "CMYK"],
)
def test_tiff_of_every_mode_keeps_its_brightness(picture):
    found = np.asarray(read_picture(encoded(picture, "TIFF"))).astype(int)
    wanted = (GREY > 127) * 255 if picture.mode == "1" else GREY
    assert np.abs(found - wanted[..., None]).max() <= 2


def test_transparent_pixels_lie_on_white():
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.putpixel((3, 3), (0, 0, 0, 255))
    found = np.asarray(read_picture(encoded(picture)))
    assert (found[3, 3] == 0).all()
    assert (found[0, 0] == 255).all()
    palette = Image.fromarray(GREY).convert("P")
    palette.info["transparency"] = int(np.asarray(palette)[0, 0])
    assert (np.asarray(read_picture(encoded(palette, transparency=palette.info["transparency"])))[:, 0] == 255).all()


UNIT = (GREY / 255).astype(np.float32)
ARRAYS = {
    "(H, W)": GREY,
    "(H, W, 1)": GREY[..., None],
    "(1, H, W)": GREY[None],
    "(3, H, W)": np.repeat(GREY[None], 3, 0),
    "(H, W, 3)": np.repeat(GREY[..., None], 3, 2),
    "(H, W, 4)": np.dstack([GREY, GREY, GREY, np.full_like(GREY, 255)]),
    "(4, H, W)": np.stack([GREY, GREY, GREY, np.full_like(GREY, 255)]),
    "floats": UNIT,
    "float channels": np.repeat(UNIT[None], 3, 0),
    "double": GREY.astype(np.float64),
    "half": UNIT.astype(np.float16),
    "uint16": GREY.astype(np.uint16) * 257,
    "int64": GREY.astype(np.int64),
    "list": GREY.tolist(),
    "tensor": torch.from_numpy(UNIT),
}


@pytest.mark.parametrize("layout", ARRAYS)
def test_arrays_of_every_layout_and_kind_of_number_are_taken(layout):
    found = np.asarray(read_picture(ARRAYS[layout]))
    assert found.shape == (16, 16, 3)
    assert np.abs(found.astype(int) - GREY[..., None]).max() <= 1


def test_booleans_are_black_and_white():
    assert pixels_of(GREY > 127).tolist() == ((GREY > 127) * 255).tolist()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (5, "5 is a int and no picture"),
        (0.5, "0.5 is a float and no picture"),
        (True, "True is a bool and no picture"),
        (np.float32([[-1, 1]]), "values from -1 to 1: scale them to 0..1 or 0..255"),
        (np.float32([[0, 300]]), "values from 0 to 300"),
        (np.float32([[0, np.nan]]), "NaN or infinite values"),
        (np.int64([[0, 256]]), "values from 0 to 256: scale them to 0..255"),
        (np.int8([[-1, 3]]), "values from -1 to 3"),
        (np.eye(8, dtype=int), "an array of int64 with 0 and 1 alone: give booleans, or scale it to 0..255"),
        (np.zeros(784, np.uint8), r"an array of shape \(784,\)"),
        (np.zeros((8, 8, 2), np.uint8), r"an array of shape \(8, 8, 2\)"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"an array of shape \(2, 3, 8, 8\)"),
        (np.zeros((0, 8), np.uint8), r"an empty array of shape \(0, 8\)"),
        ([[1, 2], [3]], "a list whose rows differ in length"),
        (["a", "b"], "a list of 2 pictures: write a row for each"),
        (np.array(["a", "b"]), "an array of <U1 and no picture"),
        ({"width": 3}, r"a record of \['width'\] with neither bytes nor a path"),
        (encoded(Image.fromarray(np.float32([[-3, 3]])), "TIFF"), "values from -3 to 3"),
        (encoded(Image.fromarray(np.int32([[0, 70_000]])), "TIFF"), "values from 0 to 70000"),
    ],
)
def test_what_is_no_picture_is_said_with_the_reason(value, reason):
    with pytest.raises(TypeError, match=reason):
        read_picture(value)


def test_arrays_of_datasets_are_taken():
    grey = Features({"image": Array3D((16, 16, 1), "uint8"), "caption": Value("string")})
    unit = Features({"image": Array2D((16, 16), "float32"), "caption": Value("string")})
    for features, array in ((grey, GREY[..., None]), (unit, UNIT)):
        pairs = load_pairs(Dataset.from_dict({"image": [array], "caption": ["a"]}, features=features), image_size=16)
        assert np.abs(pairs[0]["image"].numpy().astype(int) - GREY).max() <= 1


def test_a_number_for_a_picture_is_named_by_its_row(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"image": 5, "caption": "a"}\n')
    words = "an unreadable 'image' in row 0 (TypeError) of mine.jsonl, 5 is a int and no picture"
    refused(ValueError, words, lambda: load_pairs(tmp_path / "mine.jsonl"))


def test_truncated_pictures_and_bombs_are_named_with_their_file(tmp_path, monkeypatch):
    whole = encoded(Image.effect_noise((64, 64), 50), "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "large.png").write_bytes(encoded(Image.new("L", (300, 300))))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    rows = [f'{{"image": "{name}", "caption": "a"}}' for name in ("cut.jpg", "large.png")]
    (tmp_path / "mine.jsonl").write_text("\n".join(rows))
    for words in (
        "row 0 (OSError) of mine.jsonl, file cut.jpg",
        "row 1 (DecompressionBombError) of mine.jsonl, file large",
    ):
        refused(ValueError, words, lambda: load_pairs(tmp_path / "mine.jsonl"))
