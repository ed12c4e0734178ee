"""Tables, folders and archives as people publish them: each gives its own pairs, or one sentence that names the fault.

Every picture has one colour, so that a row says by itself whether its caption belongs to it: red, green, blue and
yellow are picture 0, 1, 2 and 3, and caption `k ...` belongs to picture k.
"""

import base64
import io
import json
import tarfile
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image as Pillow

from minilib.common import Notice
from minilib.data import load_pairs
from minilib.data.images import read_picture
from minilib.data.streams import StreamedPairs
from minilib.data.tables import split_names

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
QUOTED = 'image\tcaption\n0.png\t"0 opens\n1.png\t1 goes on\n2.png\t2 closes"\n3.png\t3\n'


def png(k, kind="PNG"):
    file = io.BytesIO()
    Pillow.new("RGB", (20, 20), COLOURS[k]).save(file, kind)
    return file.getvalue()


def images(folder, inner="", numbers=range(4)):
    (folder / inner).mkdir(parents=True, exist_ok=True)
    for k in numbers:
        (folder / inner / f"{k}.png").write_bytes(png(k))
    return folder


def text(name, content, inner=""):
    def write(folder):
        (images(folder, inner) / name).write_text(content)
        return folder / name

    return write


def each(row):
    """A line for each picture."""
    return "".join(row.format(k) for k in range(4))


def in_folder(write):
    return lambda folder: write(folder).parent


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def archive(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def tar(*endings, key="{}"):
    """An archive in which each row has these members: pictures and captions."""

    def write(folder):
        rows = [
            (key.format(k) + e, png(k) if e[-3:] == "png" else f"{k} {e}".encode()) for k in range(4) for e in endings
        ]
        return archive(folder / "a.tar", rows)

    return write


def cut_tar(folder):
    path = tar(".png", ".txt")(folder)
    path.write_bytes(path.read_bytes()[: 4 * 512])  # behind the second member
    return path


def masked_tar(folder):
    return archive(
        folder / "a.tar",
        [(f"{k}{e}", c) for k in range(4) for e, c in ((".png", png(k)), (".seg.png", png(0)), (".txt", b"%d" % k))],
    )


def shards(change):
    """Two Parquet files of two rows, after a change of the second."""

    def write(folder):
        for s in (0, 1):
            table = pa.table({"image": [png(2 * s), png(2 * s + 1)], "caption": [f"{2 * s}", f"{2 * s + 1}"]})
            parquet.write_table(table, folder / f"p{s}.parquet")
        change(folder / "p1.parquet")
        return folder

    return write


def img2dataset_files(folder):
    """What img2dataset writes as "files": each picture with .txt and .json, next to tables of addresses."""
    for k in range(4):
        (images(folder, "00000") / "00000" / f"{k}.txt").write_text(f"{k}")
        (folder / "00000" / f"{k}.json").write_text(json.dumps({"caption": f"{k}", "url": "http://x"}))
    parquet.write_table(pa.table({"url": ["x"] * 4, "caption": ["0"] * 4}), folder / "00000.parquet")
    (folder / "00000_stats.json").write_text('{"count": 4}')
    return folder


def metadata_of_all(folder):
    """One table for pictures whose folders are the splits."""
    images(folder, "train", range(3))
    images(folder, "test", [3])
    names = ["train/0.png", "train/1.png", "train/2.png", "test/3.png"]
    (folder / "metadata.csv").write_text("file_name,text\n" + "".join(f"{name},{name[-5]}\n" for name in names))
    return folder


def run_inside(folder):
    (folder / "run").mkdir()
    for name in ("settings.json", "config.yaml", "log.jsonl", "records.json"):
        (folder / "run" / name).write_text('{"loss": 1}\n')
    return in_folder(text("pairs.jsonl", lines({"image": f"{k}.png", "caption": f"{k}"} for k in range(4))))(folder)


def classes(folder):
    for k, name in enumerate(["0 test pattern", "1 dev board", "2 cat"]):
        images(folder, name, [k])
    return folder


def dots(folder):
    for k in range(4):
        (images(folder) / f"{k}.png.txt").write_text(f"{k}")
    return folder


def ordered(folder):
    images(folder)
    (folder / "a.csv").write_text("image,caption\n0.png,0\n1.png,1\n")
    (folder / "b.csv").write_text("caption,image\n2,2.png\n3,3.png\n")
    return folder


def by_content(head):
    return [{"image": head + base64.b64encode(png(k)).decode(), "caption": f"{k}"} for k in range(4)]


KARPATHY = {
    "images": [
        {"filepath": "val", "filename": f"{k}.png", "split": ["train", "restval", "val", "test"][k],
         "sentences": [{"raw": f"{k} first", "tokens": ["x"]}, {"raw": f"{k} second"}]} for k in range(4)
    ]
}  # fmt: skip
FLICKR30K = "image_name| comment_number| comment\n" + "".join(
    f"{k}.png| {j}| {k} a dog , {j}\n" for k in range(4) for j in (0, 1)
)
READ = {  # how it is written: what its captions are, of the split that is read by default
    "base64": (text("a.jsonl", lines(by_content(""))), "0123"),
    "data address": (text("a.jsonl", lines(by_content("data:image/png;base64,"))), "0123"),
    "list of one picture": (text("a.jsonl", each('{{"images": ["{0}.png"], "caption": "{0}"}}\n')), "0123"),
    "captions by file": (text("a.json", json.dumps({f"{k}.png": [f"{k} a", f"{k} b"] for k in range(4)})), "00112233"),
    "one caption by file": (text("a.json", json.dumps({f"{k}.png": f"{k}" for k in range(4)})), "0123"),
    "karpathy": (in_folder(text("dataset_coco.json", json.dumps(KARPATHY), "val")), "00"),
    "flickr30k": (in_folder(text("results.csv", FLICKR30K, "images")), "00112233"),
    "flickr8k": (in_folder(text("captions.txt", "image,caption\n" + each("{0}.png,{0} x\n"), "Images")), "0123"),
    "flickr8k, the file": (text("captions.txt", "image,caption\n" + each("{0}.png,{0} x\n")), "0123"),
    "index of pandas": (text("a.csv", ",image,caption\n" + each("{0},{0}.png,{0}\n")), "0123"),
    "blanks in the header": (text("a.csv", "image, caption\n" + each("{0}.png, {0}\n")), "0123"),
    "quotes in a .tsv": (text("a.tsv", QUOTED), ['"', "1", "2", "3"]),
    "quoted lines": (text("a.csv", 'image,caption\n0.png,"0,\n""x"""\n1.png,1\n2.png,"2\n3.png,3"\n'), "012"),
    "split column": (text("a.csv", "image,caption,split\n0.png,0,train\n1.png,1,val\n2.png,2,train\n"), "02"),
    "metadata of all splits": (metadata_of_all, "012"),
    "columns in another order": (ordered, "0123"),
    "files of img2dataset": (img2dataset_files, "0123"),
    "0.png.txt": (dots, "0123"),
    "a run in the folder": (run_inside, "0123"),
    "several texts in a tar": (tar(".png", ".0.txt", ".1.txt"), "00112233"),
    "a mask in a tar": (masked_tar, "0123"),
}  # fmt: skip


@pytest.mark.parametrize("form", READ)
def test_each_caption_is_that_of_its_picture(form, tmp_path):
    write, expected = READ[form]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        pairs = load_pairs(write(tmp_path), image_size=8, cache_dir=tmp_path / "cache")
    rows = pairs[:]
    assert [caption[0] for caption in rows["caption"]] == list(expected)
    numbers = [int(c) if c.isdigit() else 0 for c in expected]
    assert [tuple(image[:, 4, 4].tolist()) for image in rows["image"]] == [COLOURS[k] for k in numbers]


def test_a_blank_before_a_text_stays_where_the_header_has_none(tmp_path):
    write = text("a.csv", "image,caption\n0.png,  indented\n")
    assert load_pairs(write(tmp_path), image_size=8)[:]["caption"] == ["  indented"]


def test_splits_that_rows_name_are_splits_and_are_told(tmp_path):
    folder = in_folder(text("dataset_coco.json", json.dumps(KARPATHY), "val"))(tmp_path / "k")
    assert split_names(folder) == ["train", "restval", "validation", "test"]
    with pytest.warns(Notice, match="split 'train' of train, restval, validation, test is read"):
        load_pairs(folder, image_size=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        assert load_pairs(folder, image_size=8, split="val")[:]["caption"] == ["2 first", "2 second"]
        stream = StreamedPairs(folder, 2, image_size=8, split="test")
        assert stream[[0]]["caption"][0].startswith("3 ")
    assert split_names(metadata_of_all(tmp_path / "m")) == ["train", "test"]
    assert load_pairs(tmp_path / "m", image_size=8, split="test")[:]["caption"] == ["3"]


def test_a_class_is_no_split(tmp_path):
    captions = load_pairs(classes(tmp_path), image_size=8, label_column="label")[:]["caption"]
    assert captions == [f"a photo of a {name}." for name in ("0 test pattern", "1 dev board", "2 cat")]


def two_metadata(folder):
    (images(folder) / "metadata.csv").write_text("file_name,text\n0.png,0\n")
    (folder / "metadata.jsonl").write_text(lines([{"file_name": "0.png", "text": "other"}]))
    return folder


def lacking(column):
    def write(folder):
        (images(folder) / "a.csv").write_text("image,caption\n0.png,0\n")
        (folder / "b.csv").write_text(f"image,{column}\n1.png,1\n")
        return folder

    return write


def rename(path):
    parquet.write_table(parquet.read_table(path).rename_columns(["image", "text"]), path)


NAMED = {  # what is wrong: the words that the sentence has
    "two kinds of metadata": (two_metadata, ["metadata.csv", "metadata.jsonl", "several kinds"]),
    "a column twice": (text("a.csv", "image,caption,caption\n0.png,a,b\n"), ["a.csv", "'caption' twice"]),
    "more fields than names": (text("a.tsv", "image\tcaption\n0.png\ta\tb\n1.png\tc\td\n"), ["a.tsv", "line 2 has 3"]),
    "no rows": (text("a.csv", "image,caption\n"), ["a.csv", "no rows"]),
    "an empty list": (text("a.json", "[]"), ["a.json", "no rows"]),
    "the second shard is cut": (shards(lambda p: p.write_bytes(p.read_bytes()[:-9])), ["p1.parquet"]),
    "the second shard has other columns": (shards(rename), ["p1.parquet", "['image', 'text']"]),
    "the second .csv has other columns": (lacking("title"), ["b.csv", "['image', 'title']"]),
    "a cut archive": (cut_tar, ["a.tar", "no end mark"]),
    "keys with dots": (tar(".png", ".txt", key="v1.{}"), ["a.tar", "'v1' has several pictures"]),
    "two pictures of a row": (tar(".left.png", ".right.png", ".txt"), ["left.png, right.png"]),
    "two pictures in a cell": (text("a.jsonl", lines([{"image": ["0.png", "1.png"], "caption": "a"}])), ["2 pictures"]),
    "a thousand columns": (
        text("a.json", json.dumps([{f"c{k}": 1 for k in range(1000)}])), ["no column 'image'", "and 990 more"],
    ),
    "a broken dataset_dict": (text("dataset_dict.json", "{"), ["dataset_dict.json", "could not be read"]),
    "no split in dataset_dict": (text("dataset_dict.json", '{"splits": []}'), ["names no split"]),
}  # fmt: skip


@pytest.mark.parametrize("fault", NAMED)
def test_what_is_wrong_is_named_read_whole_or_as_a_stream(fault, tmp_path):
    write, words = NAMED[fault]
    source = write(tmp_path)
    source = source.parent if source.name == "dataset_dict.json" else source
    with pytest.raises(ValueError) as error:
        load_pairs(source, image_size=8, cache_dir=tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    for part in words:
        assert part in str(error.value)
    with pytest.raises(ValueError, match=r"^source "):
        StreamedPairs(source, 8, image_size=8, cache_dir=tmp_path / "cache")[range(8)]


def test_the_message_of_a_bad_base64_picture_is_short(tmp_path):
    cell = base64.b64encode(b"no picture" * 10_000).decode()
    source = text("a.jsonl", lines([{"image": cell, "caption": "a"}]))(tmp_path)
    with pytest.raises(ValueError, match="row 0") as error:
        load_pairs(source, image_size=8)
    assert len(str(error.value)) < 300


def test_transparent_arrays_lie_on_white_as_transparent_files_do():
    assert read_picture(np.zeros((8, 8, 4), np.uint8)).getpixel((0, 0)) == (255, 255, 255)


def test_tensors_of_bfloat16_are_pictures():
    assert read_picture(torch.full((3, 8, 8), 0.5, dtype=torch.bfloat16)).getpixel((0, 0)) == (128, 128, 128)


def test_no_other_program_is_started_for_a_picture(monkeypatch):
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(OSError, match="cannot identify"):
        read_picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
