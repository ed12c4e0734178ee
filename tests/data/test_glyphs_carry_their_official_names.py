"""Proves that a glyph is drawn under its own name, that no test character is seen in training, and that all repeats.

The names are compared by a digest, which every Python from 3.11 on must find: names never change once given, and the
fonts are older than the Unicode of Python 3.11.
"""

import hashlib
import re
import unicodedata

import pytest
import torch

from minilib.data import glyphs, glyphs_dataset, render_glyphs
from minilib.data.glyphs import CODE, FACE, FACES, OUTLINE, all_drawings, name_of, outline_numbers
from minilib.evals import evaluate_retrieval
from minilib.models import TwoTowers

NAMES = "a911fe8f02b8"  # of every character's code and name, with matplotlib's DejaVu 2.37 and STIX 1.1.0


def characters(captions):
    return {unicodedata.lookup(caption) for caption in captions}


def outlines(split, **options):
    captions = render_glyphs(600, split=split, **options)[1]
    return set(outline_numbers(captions).tolist())


def test_the_names_are_those_of_every_python():
    codes = sorted(set(all_drawings()[:, CODE].tolist()))
    text = "\n".join(f"{code:x} {name_of(code)}" for code in codes)
    assert (len(all_drawings()), len(codes)) == (54_097, 7_338)
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == NAMES


def test_a_pair_is_a_picture_and_the_name_of_a_character():
    images, captions = render_glyphs(200, seed=3)
    assert images.shape == (200, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert (images[:, 0] == images[:, 2]).all()
    assert images.amin((1, 2, 3)).max() < 200  # ink everywhere
    assert (images[:, :, [0, -1]] > 100).float().mean() > 0.999  # and hardly any cut off
    assert all(caption == unicodedata.name(unicodedata.lookup(caption)).lower() for caption in captions)


def test_a_plain_glyph_is_what_its_font_draws_for_its_name():
    from PIL import ImageFont

    images, captions = render_glyphs(40, split="test", faces=["DejaVuSerif"], unique=True)
    font = ImageFont.truetype(str(glyphs._path("DejaVuSerif")), 20, layout_engine=ImageFont.Layout.BASIC)
    for image, caption in zip(images, captions):
        x0, y0, x1, y1 = font.getbbox(unicodedata.lookup(caption), anchor="ls")
        if max(x1 - x0, y1 - y0) <= 30:  # larger ones are drawn smaller
            drawn = sum(bytes(font.getmask2(unicodedata.lookup(caption), mode="L")[0]))
            assert int((255 - image[0].int()).sum()) == drawn


def test_pair_k_does_not_depend_on_how_many_are_asked_for_and_comes_again():
    images, captions = render_glyphs(100, seed=4)
    fewer, first = render_glyphs(30, seed=4)
    assert captions[:30] == first
    assert torch.equal(images[:30], fewer)
    assert render_glyphs(30, seed=5)[1] != first


def test_no_outline_is_in_two_splits_whatever_faces_are_drawn():
    for fold in (0, 1):
        train = outlines("train", fold=fold)
        for split in ("validation", "test"):
            assert train.isdisjoint(outlines(split, fold=fold))
            assert train.isdisjoint(outlines(split, fold=fold, faces=["STIXGeneral", "DejaVuSans"]))
    assert outlines("test") & outlines("train", fold=1)  # another fold holds out others


def test_characters_that_a_face_draws_alike_are_one_outline():
    alike = ["latin capital letter a", "greek capital letter alpha", "cyrillic capital letter a"]
    assert outline_numbers([*alike, "no such name"]).tolist() == [ord("A")] * 3 + [-1]
    assert len(set(outline_numbers(["comma", "apostrophe", "full stop", "hyphen-minus"]).tolist())) == 4
    table = all_drawings()
    assert len(set(table[:, OUTLINE].tolist())) == 6_130
    assert (table[:, OUTLINE] <= table[:, CODE]).all()
    assert set(table[:, FACE].tolist()) == set(range(len(FACES)))


def test_a_test_item_has_one_right_answer():
    captions = render_glyphs(1_000, split="test", unique=True)[1]
    assert len(set(captions)) == len(set(outline_numbers(captions).tolist())) == 1_000
    with pytest.raises(ValueError, match="only 1000 exist in split 'test'"):
        render_glyphs(1_001, split="test", unique=True)


def test_training_pictures_are_turned_moved_and_sized_and_test_pictures_are_not():
    def looks(split):
        images, captions = render_glyphs(1_500, split=split, faces=["STIXGeneralItalic"])
        most = max(captions, key=captions.count)
        mine = [k for k, caption in enumerate(captions) if caption == most]
        return len(mine), len({images[k].numpy().tobytes() for k in mine})

    seen, different = looks("test")
    assert seen > 3
    assert different == 1
    seen, different = looks("train")
    assert seen == different > 1


def test_a_dataset_of_glyphs_gives_the_same_batches_and_is_scored():
    images, captions = render_glyphs(20, split="test", unique=True)
    dataset = glyphs_dataset(20, split="test", unique=True)
    rows = dataset[[3, 1]]
    assert torch.equal(rows["image"], images[[3, 1]])
    assert rows["caption"] == [captions[3], captions[1]]
    towers = TwoTowers(sorted({word for caption in captions for word in caption.split()}), dim=8, width=8)
    assert evaluate_retrieval(towers, dataset, ks=(20,), progress=False)["image_to_text"][20] == pytest.approx(1)


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"count": 0}, ValueError, "count must be at least 1"),
        ({"count": 5, "seed": -3}, ValueError, "seed must be at least 0"),
        ({"count": 5, "fold": "one"}, TypeError, "fold must be an integer"),
        (
            {"count": 5, "split": "dev"},
            ValueError,
            r"split must be one of \('train', 'validation', 'test'\), got 'dev'",
        ),
        ({"count": 5, "faces": ["Arial"]}, ValueError, "faces must hold some of DejaVuSans, .*Arial"),
        ({"count": 5, "faces": "DejaVuSans"}, ValueError, "pass a list"),
        ({"count": 5, "image_size": 31}, ValueError, "image_size must be at least 32"),
    ],
)
def test_bad_settings_of_glyphs_are_named_in_one_sentence(settings, error, says):
    with pytest.raises(error, match=says):
        render_glyphs(**settings)


def test_fonts_that_are_not_there_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr("matplotlib.get_data_path", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path)) + ".*install matplotlib"):
        glyphs._path("DejaVuSans")
