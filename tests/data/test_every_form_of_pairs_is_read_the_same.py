"""Twelve pictures and their captions in every form that people keep them in: trained on and scored, all are the same.

The forms are written by FORMS below, each into a folder of its own; `clip` and `eval` of the command line read them.
"""

import gc
import gzip
import io
import json
import pickle
import tarfile
import warnings

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, IterableDataset, Value
from PIL import Image as Pillow
from support.reference import refused

import minilib.__main__ as main_module
from minilib.cli import clip_data
from minilib.common import Notice
from minilib.data import load_pairs
from minilib.data.streams import OneCaptionEach, StreamedPairs, images_once
from minilib.data.tables import open_table, split_names

NUMBER = 12
CAPTIONS = [f"picture number {k} of twelve" for k in range(NUMBER)]


@pytest.fixture(scope="module")
def pictures():
    """PNG bytes, without loss, so that every form holds the same pixels."""
    generator, found = np.random.default_rng(1), []
    for _ in range(NUMBER):
        file = io.BytesIO()
        Pillow.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file, "PNG")
        found.append(file.getvalue())
    return found


def images(folder, pictures, inner=""):
    (folder / inner).mkdir(parents=True, exist_ok=True)
    for k, content in enumerate(pictures):
        (folder / inner / f"{k:02d}.png").write_bytes(content)


def rows(image="image", caption="caption", inner=""):
    return [{image: f"{inner}{k:02d}.png", caption: CAPTIONS[k]} for k in range(NUMBER)]


def lines(records):
    return "\n".join(map(json.dumps, records)) + "\n"


def separated(records, mark):
    return "\n".join(mark.join(row) for row in [list(records[0]), *(list(row.values()) for row in records)]) + "\n"


def table(pictures, caption="caption"):
    kind = Features({"image": Image(), caption: Value("string")})
    return Dataset.from_dict(
        {"image": [{"bytes": p, "path": None} for p in pictures], caption: CAPTIONS}, features=kind
    )


def metadata_jsonl(folder, pictures):
    images(folder, pictures)
    (folder / "metadata.jsonl").write_text(lines(rows("file_name")))
    return folder


def metadata_csv(folder, pictures):
    images(folder, pictures)
    (folder / "metadata.csv").write_text(separated(rows("file_name", "text"), ","))
    return folder


def csv_in_folder(folder, pictures):
    images(folder, pictures, "images")
    (folder / "captions.csv").write_text(separated(rows("filepath", "title"), ";"))
    return folder


def tsv(folder, pictures):
    images(folder, pictures)
    (folder / "pairs.TSV").write_text(separated(rows("image_path", "caption"), "\t"))
    return folder / "pairs.TSV"


def gzipped_lines(folder, pictures):
    images(folder, pictures)
    (folder / "pairs.jsonl.gz").write_bytes(gzip.compress(lines(rows("image", "text")).encode()))
    return folder / "pairs.jsonl.gz"


def ndjson(folder, pictures):
    images(folder, pictures)
    (folder / "pairs.ndjson").write_text(lines(rows()))
    return folder / "pairs.ndjson"


def json_list(folder, pictures):
    images(folder, pictures)
    (folder / "pairs.json").write_text(json.dumps({"version": 1, "data": rows("img", "captions")}))
    return folder / "pairs.json"


def coco(folder, pictures):
    images(folder, pictures, "train2017")
    (folder / "annotations").mkdir()
    content = {
        "images": [{"id": 100 + k, "file_name": f"{k:02d}.png"} for k in range(NUMBER)],
        "annotations": [{"id": k, "image_id": 100 + k, "caption": CAPTIONS[k]} for k in range(NUMBER)],
    }
    (folder / "annotations" / "captions_train2017.json").write_text(json.dumps(content))
    return folder


def sidecars(folder, pictures):
    images(folder, pictures)
    for k, caption in enumerate(CAPTIONS):
        (folder / f"{k:02d}.txt").write_text(caption + "\n")
    return folder


def shards(folder, pictures):
    whole = table(pictures)
    whole.select(range(7)).to_parquet(str(folder / "train-00000-of-00002.parquet"))
    whole.select(range(7, NUMBER)).to_parquet(str(folder / "train-00001-of-00002.parquet"))
    return folder


def tars(folder, pictures):
    for number, part in enumerate((range(5), range(5, NUMBER))):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as archive:
            for k in part:
                caption = CAPTIONS[k].encode() if number else json.dumps({"caption": CAPTIONS[k]}).encode()
                for ending, content in ((".png", pictures[k]), (".txt" if number else ".json", caption)):
                    member = tarfile.TarInfo(f"{k:06d}{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return folder


def saved(folder, pictures):
    table(pictures, "title").save_to_disk(str(folder / "saved"))
    return folder / "saved"


def saved_splits(folder, pictures):
    DatasetDict({"train": table(pictures), "test": table(pictures).select(range(3))}).save_to_disk(str(folder / "all"))
    return folder / "all"


def arrow(folder, pictures):
    table(pictures).save_to_disk(str(folder / "saved"))
    return next((folder / "saved").glob("*.arrow"))


FORMS = [
    metadata_jsonl, metadata_csv, csv_in_folder, tsv, gzipped_lines, ndjson, json_list, coco, sidecars, shards, tars,
    saved, saved_splits, arrow,
]  # fmt: skip
by_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def minilib(*arguments):
    main_module.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def judge(pictures, tmp_path_factory):
    """What the first form gives: losses and recall."""
    return run(metadata_jsonl, pictures, tmp_path_factory.mktemp("judge"))


def run(form, pictures, folder, *flags):
    (folder / "data").mkdir()
    source = form(folder / "data", pictures)
    quick = ("--batch_size", 6, "--steps", 2, "--dim", 8, *flags)
    minilib("clip", "--data", source, "--output", folder / "run", *quick)
    minilib("eval", "--data", source, "--run", folder / "run", *(("--split", "train") if form is saved_splits else ()))
    losses = [record["loss"] for record in json.loads((folder / "run" / "records.json").read_text())]
    return losses, json.loads((folder / "run" / "evaluation.json").read_text())


@by_form
def test_every_form_trains_and_evaluates_to_the_same_recall(form, pictures, judge, tmp_path):
    assert run(form, pictures, tmp_path) == judge


@by_form
def test_a_stream_of_every_form_gives_every_row_once_an_epoch(form, pictures, tmp_path):
    source = form(tmp_path, pictures)
    stream = StreamedPairs(source, 30, shuffle_buffer=5, keep=8)
    whole = load_pairs(source)
    for epoch in (0, NUMBER):
        got = stream[range(epoch, epoch + NUMBER)]
        assert sorted(got["caption"]) == sorted(CAPTIONS)
        for image, caption in zip(got["image"], got["caption"]):
            assert torch.equal(image, whole[CAPTIONS.index(caption)]["image"])
    assert stream[range(NUMBER)]["caption"] != stream[range(NUMBER, 2 * NUMBER)]["caption"]


@pytest.mark.parametrize("form", [tars, shards], ids=["tars", "shards"])
def test_streams_train_the_same_in_pieces_and_after_an_interrupt(form, pictures, tmp_path):
    (tmp_path / "data").mkdir()
    source, results = form(tmp_path / "data", pictures), []
    for name, micro, stops in (("whole", 6, False), ("pieces", 4, False), ("broken", 6, True)):
        flags = ("--streaming", "true", "--shuffle_buffer", 4, "--batch_size", 6, "--dim", 8, "--save_every", 1)
        flags += ("--steps", 5, "--micro_batch_size", micro, "--data", source, "--output", tmp_path / name)
        if stops:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("minilib.cli.clip.stop_when_asked", lambda _, record: 1 / (record["step"] - 3))
                with pytest.raises(SystemExit):
                    minilib("clip", *flags)
        minilib("clip", *flags)
        results.append([record["loss"] for record in json.loads((tmp_path / name / "records.json").read_text())])
    assert results[0] == results[2]
    assert results[0] == pytest.approx(results[1], abs=1e-5)


# Splits by name


def test_splits_are_found_by_the_names_of_folders_and_files(pictures, tmp_path):
    for split in ("train", "val"):
        (tmp_path / "a" / split).mkdir(parents=True)
        metadata_jsonl(tmp_path / "a" / split, pictures[:4] if split == "val" else pictures)
    (tmp_path / "a" / "val" / "metadata.jsonl").write_text(lines(rows("file_name")[:4]))
    (tmp_path / "b").mkdir()
    images(tmp_path / "b", pictures)
    for name, records in (("train", rows()), ("test", rows()[:2])):
        (tmp_path / "b" / f"{name}.csv").write_text(separated(records, ","))
    assert sorted(split_names(tmp_path / "a")) == ["train", "validation"]
    assert sorted(split_names(tmp_path / "b")) == ["test", "train"]
    assert [len(load_pairs(tmp_path / "a", split=name)) for name in (None, "train", "val", "validation")] == [
        12,
        12,
        4,
        4,
    ]
    assert len(load_pairs(tmp_path / "b", split="test")) == 2
    assert load_pairs(tmp_path / "b", split="train[:25%]")[:]["caption"] == CAPTIONS[:3]
    refused(ValueError, "source has no split 'dev', only", lambda: load_pairs(tmp_path / "b", split="dev"))


def test_eval_scores_the_test_split_and_says_so(pictures, tmp_path, capsys):
    source = saved_splits(tmp_path, pictures)
    minilib("clip", "--data", source, "--output", tmp_path / "run", "--batch_size", 6, "--steps", 1, "--dim", 8)
    minilib("eval", "--data", source, "--run", tmp_path / "run")
    assert "split 'test' of train, test" in capsys.readouterr().out
    recall = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert recall["image_to_text"]["5"] == 1  # of three pairs


def test_eval_takes_the_data_of_the_run_and_says_where_the_model_was_trained_on_them(pictures, tmp_path, capsys):
    source, run = saved_splits(tmp_path, pictures), tmp_path / "run"
    minilib("clip", "--data", source, "--output", run, "--batch_size", 6, "--steps", 1, "--dim", 8)
    capsys.readouterr()
    minilib("eval", "--run", run)
    assert capsys.readouterr().out.startswith(f"{source}: split 'test' of train, test\n")
    minilib("eval", "--run", run, "--split", "train")
    told = capsys.readouterr().out
    assert told.startswith(f"{source}: split 'train' of train, test, on which the model was trained\n")
    (alone := tmp_path / "alone").mkdir()
    images(alone, pictures)
    (alone / "train.csv").write_text(separated(rows(), ","))
    minilib("eval", "--run", run, "--data", alone)
    assert capsys.readouterr().out.startswith(f"{alone}: all of its pairs\n")


def test_eval_says_where_a_part_of_the_split_was_trained_on(pictures, tmp_path, capsys):
    source, run = tmp_path / "data", tmp_path / "run"
    images(source, pictures)
    (source / "a.jsonl").write_text(lines(rows()))
    minilib("clip", "--data", source, "--split", "train[:6]", "--output", run, "--batch_size=6", "--steps=1", "--dim=8")
    for split, told in (
        ([], f"{source}: all of its pairs, of which 'train[:6]' was trained on\n"),
        (["--split", "train[6:]"], f"{source}: split 'train[6:]' of train, of which 'train[:6]' was trained on\n"),
        (["--split", "train[:6]"], f"{source}: split 'train[:6]' of train, on which the model was trained\n"),
    ):
        capsys.readouterr()
        minilib("eval", "--run", run, *split)
        assert capsys.readouterr().out.startswith(told)


def test_eval_takes_the_pictures_of_the_data_that_are_scored(pictures, tmp_path):
    """Other data may have files of the same names; the folder of the training's pictures is not theirs."""
    for place in ("mine/table", "other", "third"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "a.jsonl").write_text(lines(rows()))
    images(tmp_path / "mine" / "pictures", pictures)
    images(tmp_path / "other", pictures[::-1])
    trained = ("--data", tmp_path / "mine" / "table" / "a.jsonl", "--image_folder", tmp_path / "mine" / "pictures")
    run = tmp_path / "run"
    minilib("clip", *trained, "--output", run, "--batch_size", 6, "--steps", 1, "--dim", 8)
    seen, read = [], clip_data.load_pairs

    def spied(*args, **given):
        seen.append(read(*args, **given))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_data, "load_pairs", spied)
        minilib("eval", "--run", run)
        minilib("eval", "--run", run, "--data", tmp_path / "other" / "a.jsonl", "--output", tmp_path / "elsewhere")
        folder = ("--image_folder", tmp_path / "other", "--output", tmp_path / "third")
        minilib("eval", "--run", run, "--data", tmp_path / "third" / "a.jsonl", *folder)
    mine, other, third = (pairs[:]["image"] for pairs in seen)
    assert torch.equal(mine.flip(0), other)
    assert torch.equal(other, third)
    for folder in (run, tmp_path / "elsewhere", tmp_path / "third"):
        assert "image_to_text" in json.loads((folder / "evaluation.json").read_text())


def test_loaded_sets_of_splits_are_read_by_the_name_of_the_split(pictures):
    both = DatasetDict({"train": table(pictures), "test": table(pictures).select([2, 1])})
    assert load_pairs(both, split="test")[:]["caption"] == [CAPTIONS[2], CAPTIONS[1]]
    assert len(load_pairs(both)) == NUMBER
    two = DatasetDict({"a": table(pictures), "b": table(pictures)})
    refused(ValueError, "source has the splits ['a', 'b']: name one with split", lambda: load_pairs(two))
    stream = open_table(table(pictures).to_iterable_dataset(), streaming=True)[0]
    assert len(list(stream)) == NUMBER


def test_a_name_that_is_nowhere_is_one_sentence_without_a_network():
    refused(ValueError, "'nobody/nothing' does not exist here, and the hub", lambda: load_pairs("nobody/nothing"))


# Columns


def test_columns_that_are_found_are_said_and_others_are_named_by_flags(pictures, tmp_path):
    with pytest.warns(Notice, match="columns: 'filepath' is the image, 'title' the caption"):
        load_pairs(csv_in_folder(tmp_path, pictures))
    images(tmp_path, pictures)
    (tmp_path / "mine.jsonl").write_text(lines(rows("where", "what")))
    with pytest.raises(ValueError, match=r"no column 'image', only \['where', 'what'\]: name the right one with"):
        load_pairs(tmp_path / "mine.jsonl")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        named = load_pairs(tmp_path / "mine.jsonl", image_column="where", caption_column="what")
    assert named[:]["caption"] == CAPTIONS


def test_classes_become_captions(pictures, tmp_path):
    for k, name in enumerate(("hot_dog", "cat", "hot_dog")):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / f"{k}.png").write_bytes(pictures[k])
    pairs = load_pairs(tmp_path, label_column="label")
    assert sorted(pairs[:]["caption"]) == ["a photo of a cat.", "a photo of a hot dog.", "a photo of a hot dog."]
    refused(ValueError, "only ['image', 'label']", lambda: load_pairs(tmp_path))


def test_cells_of_a_csv_are_text(pictures, tmp_path):
    images(tmp_path, pictures)
    (tmp_path / "a.csv").write_text('\ufeffimage,caption\n00.png,None\n01.png,007\n02.png,"two, three"\n', "utf-8")
    assert load_pairs(tmp_path / "a.csv")[:]["caption"] == ["None", "007", "two, three"]


# Several captions an image


def five_each(folder, pictures):
    images(folder, pictures[:4])
    records = [{"image": f"{k:02d}.png", "caption": [f"{CAPTIONS[k]} {j}" for j in range(5)]} for k in range(4)]
    (folder / "pairs.jsonl").write_text(lines(records))
    return folder / "pairs.jsonl"


def test_a_list_of_captions_becomes_a_row_each_and_the_picture_is_kept_once(pictures, tmp_path):
    pairs = load_pairs(five_each(tmp_path, pictures))
    assert len(pairs) == 20
    assert pairs[:]["caption"] == [f"{CAPTIONS[k]} {j}" for k in range(4) for j in range(5)]
    assert torch.equal(pairs[0]["image"], pairs[4]["image"])
    assert not torch.equal(pairs[4]["image"], pairs[5]["image"])


def test_texts_and_lists_may_be_mixed(pictures, tmp_path):
    images(tmp_path, pictures)
    records = [{"image": "00.png", "caption": "one"}, {"image": "01.png", "caption": ["two", "three"]}]
    (tmp_path / "pairs.jsonl").write_text(lines(records))
    assert load_pairs(tmp_path / "pairs.jsonl")[:]["caption"] == ["one", "two", "three"]


def test_an_epoch_has_each_image_once_with_captions_that_change(pictures, tmp_path):
    pairs = images_once(load_pairs(five_each(tmp_path, pictures)))
    assert isinstance(pairs, OneCaptionEach)
    assert len(pairs) == 4
    drawn = []
    for step in range(40):
        caption = pairs[pairs.batch_indices(step, 4, seed=0)]["caption"]
        assert sorted(text[:-2] for text in caption) == sorted(CAPTIONS[:4])
        drawn += caption
    counts = [drawn.count(f"{CAPTIONS[0]} {j}") for j in range(5)]
    assert sum(counts) == 40
    assert min(counts) >= 2
    assert torch.equal(pairs.batch_indices(7, 2, seed=5), pairs.batch_indices(7, 2, seed=5))
    halves = torch.cat([pairs.batch_indices(step, 2, seed=5) for step in (6, 7)])
    assert len({int(row) // 5 for row in halves}) == 4


def test_the_command_says_that_an_epoch_draws_one_caption_of_each_image(pictures, tmp_path, capsys):
    source = five_each(tmp_path, pictures)
    flags = ("--data", source, "--batch_size", 4, "--steps", 2, "--dim", 8)
    minilib("clip", *flags, "--output", tmp_path / "run")
    assert "4 images with 20 captions: an epoch draws one caption of each image" in capsys.readouterr().out
    minilib("clip", *flags[:2], *flags[4:], "--batch_size", 3, "--validation", 0.25, "--output", tmp_path / "held")
    assert "3 images with 15 captions" in (out := capsys.readouterr().out)
    assert "validation: 5 pairs" in out


def test_captions_that_differ_late_are_read_to_their_end_or_the_cut_is_said(pictures, tmp_path, capsys):
    images(tmp_path, pictures)
    records = rows()
    for k in (0, 1):
        records[k]["caption"] = "same " * 40 + str(k)
    flags = (
        "--data",
        tmp_path / "pairs.jsonl",
        "--batch_size",
        6,
        "--steps",
        1,
        "--dim",
        8,
        "--output",
        tmp_path / "run",
    )
    (tmp_path / "pairs.jsonl").write_text(lines(records))
    minilib("clip", *flags)
    assert "are longer than" not in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "model.json").read_text())["max_words"] == 41
    records[0]["caption"] = "same " * 300
    (tmp_path / "pairs.jsonl").write_text(lines(records))
    minilib("clip", *flags[:-1], tmp_path / "again")
    assert "1 of 12 captions are longer than the 256 words that are read: cut there" in capsys.readouterr().out


# What is wrong is named by file, row and field, ten at a time


def test_ten_bad_rows_are_listed_in_one_sentence_and_the_rest_counted(pictures, tmp_path):
    images(tmp_path, pictures)
    (tmp_path / "03.png").write_bytes(pictures[3][:300])
    records = rows() + [{"image": f"lost{k}.png", "caption": "a"} for k in range(8)]
    records[1]["caption"], records[2]["caption"], records[5]["image"] = "  ", None, ""
    records[7]["caption"] = ["fine", 3]
    (tmp_path / "mine.jsonl").write_text(lines(records))

    def read():
        load_pairs(tmp_path / "mine.jsonl")

    for words in (
        "no 'caption' in row 1 of mine.jsonl", "no 'caption' in row 2 of", "no 'image' in row 5 of mine.jsonl",
        "an unreadable 'image' in row 3 (OSError) of mine.jsonl, file 03.png, ",
        "a int as 'caption' in row 7 of mine.jsonl", "file lost0.png", "; and 3 more: fix these rows or drop them.",
    ):  # fmt: skip
        refused(ValueError, words, read)
    with pytest.raises(ValueError) as caught:
        read()
    assert "lost4.png" in str(caught.value)
    assert "lost5.png" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"image": "0.png", "caption": "a"}\n{"image": \n', "line 2 is no JSON"),
        ("a.jsonl", b'{"image": "0.png", "caption": "a"}\n[1]\n', "line 2 is no object in braces"),
        ("a.jsonl", b"", "it is empty"),
        ("a.csv", b"", "it is empty"),
        ("a.csv", b"image,caption\n0.png,caf\xe9\n", "it is not UTF-8"),
        ("a.json", b'{"images": [{"id": 1}], "annotations": [{"id": 1}]}', "annotations without 'image_id'"),
        ("a.json", b'{"data": ', "line 1"),
        ("a.jsonl.gz", b"not gzip", "could not be read"),
        ("a.tar", b"no tar", "is damaged or no tar file"),
        ("a.parquet", b"no parquet", "could not be read"),
    ],
)
def test_files_that_cannot_be_read_are_named_with_what_is_wrong(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    refused(ValueError, words, lambda: load_pairs(tmp_path / name))
    refused(ValueError, name, lambda: load_pairs(tmp_path / name))


def test_a_broken_row_of_a_stream_is_named(pictures, tmp_path):
    images(tmp_path, pictures)
    (tmp_path / "mine.jsonl").write_text(lines([*rows()[:2], {"image": "lost.png", "caption": "a"}]))
    stream = StreamedPairs(tmp_path / "mine.jsonl", 3, shuffle_buffer=1)
    assert stream[[0, 1]]["caption"] == CAPTIONS[:2]
    refused(ValueError, "row 2 (FileNotFoundError) of the stream, file lost.png", lambda: stream[[2]])


def test_a_row_without_a_class_has_no_caption(pictures):
    """-1 is how `datasets` writes that a row has none."""
    labels = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
    table = Dataset.from_dict({"image": [{"bytes": one} for one in pictures[:3]], "label": [0, 1, -1]}, labels)
    refused(ValueError, "source has no 'label' in row 2", lambda: load_pairs(table, label_column="label"))
    stream = StreamedPairs(table, 3, shuffle_buffer=1, columns={"label_column": "label"})
    assert stream[[0, 1]]["caption"] == ["a photo of a cat.", "a photo of a dog."]
    refused(ValueError, "source has no 'label' in row 2", lambda: stream[[2]])


def test_captions_come_from_one_column(pictures):
    both = {"caption_column": "caption", "label_column": "label"}
    table = Dataset.from_dict({"image": [{"bytes": pictures[0]}], "caption": ["a"], "label": ["b"]})
    refused(ValueError, "caption_column is 'caption' and label_column 'label'", lambda: load_pairs(table, **both))


# What is left behind


def test_pictures_are_kept_on_disk_as_long_as_somebody_holds_the_pairs(pictures, tmp_path):
    (tmp_path / "data").mkdir()
    images(tmp_path / "data", pictures)
    (tmp_path / "data" / "a.jsonl").write_text(lines(rows()))

    def places():
        return sorted(path.name for path in (tmp_path / "cache").glob("minilib-pairs-*"))

    first, second = (load_pairs(tmp_path / "data" / "a.jsonl", cache_dir=tmp_path / "cache") for _ in range(2))
    assert len(places()) == 2
    part = second.select([3, 1])
    copy = pickle.loads(pickle.dumps(part))  # as a worker that loads rows gets it
    del second
    assert torch.equal(copy[:]["image"], first[[3, 1]]["image"])
    del copy
    gc.collect()
    assert len(places()) == 2, "a copy in another process removes nothing, and a part holds the whole"
    assert torch.equal(part[:]["image"], first[[3, 1]]["image"])
    del first, part
    gc.collect()
    assert places() == []


# Streams


def test_a_stream_of_pictures_in_memory_is_known_again():
    """The text of a pillow image holds its address, that of a large array is cut."""
    table = [{"image": Pillow.new("RGB", (40, 40), (k, 0, 0)), "caption": CAPTIONS[k]} for k in range(3)]

    def told(rows):
        return StreamedPairs(IterableDataset.from_generator(lambda: iter(rows)), 3).fingerprint()

    again = [{**row, "image": row["image"].copy()} for row in table]
    other = [*table[:2], {**table[2], "image": Pillow.new("RGB", (40, 40), (9, 9, 9))}]
    assert told(table) == told(again) != told(other)
    arrays = [[{"image": np.full((200, 200), k, np.uint8), "caption": "a"}] for k in range(2)]
    arrays[1][0]["image"][:50] = arrays[1][0]["image"][-50:] = 0
    arrays[0][0]["image"][100] = 7
    assert told(arrays[0]) != told(arrays[1])


def test_a_batch_of_a_stream_is_read_once_for_both_passes_of_the_gradient_cache(pictures, tmp_path):
    images(tmp_path, pictures)
    (tmp_path / "a.jsonl").write_text(lines(rows()))
    stream = StreamedPairs(tmp_path / "a.jsonl", 24, shuffle_buffer=1, keep=2)
    rewound, begin = [], stream._rewind
    stream._rewind = lambda: (rewound.append(1), begin())
    for step in range(3):
        batch = stream.batch_indices(step, 8, seed=0)
        for _ in range(2):
            for piece in batch.split(4):
                stream[piece]
    assert rewound == []
