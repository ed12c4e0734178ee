"""Questions and preference pairs are the same rows whatever they are stored in; what cannot be read is named."""

import gzip
import json

import pytest
from datasets import Dataset, DatasetDict
from support.reference import refused

from minilib.cli.pairs import read_data
from minilib.cli.settings import fingerprint_of
from minilib.data import load_questions
from minilib.trainers.preference_rows import read_row

QUESTIONS = [
    {"context": "Lisbon keeps amber.\nIt is \"warm\", there.", "question": "What does Lisbon keep?", "answer": "amber"},
    {"context": "Zürich hält 北京.", "question": "Was?", "answer": "007"},
    {"context": "Oslo keeps tea.", "question": "None", "answer": "tea"},
]  # fmt: skip
PAIRS = [
    {"prompt": "What?\n", "chosen": "amber", "rejected": "tea, \"silk\""},
    {"prompt": "Was?", "chosen": " 北京", "rejected": " 5"},
]  # fmt: skip


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_csv(rows, path, **settings):
    Dataset.from_list(rows).to_csv(str(path), index=False, **settings)
    return path


def shards(rows, folder):
    folder.mkdir()
    for number, row in enumerate(rows):
        Dataset.from_list([row]).to_parquet(str(folder / f"train-{number:05}-of-{len(rows):05}.parquet"))
    return folder


def saved(rows, folder):
    Dataset.from_list(rows).save_to_disk(str(folder))
    return folder


def several(rows, folder):
    DatasetDict({"train": Dataset.from_list(rows), "test": Dataset.from_list(rows[:1])}).save_to_disk(str(folder))
    return folder


def text(name, encode=str.encode):
    def write(rows, path):
        path = path.with_name(name)
        path.write_bytes(encode(lines(rows)))
        return path

    return write


def parquet(rows, path):
    Dataset.from_list(rows).to_parquet(str(path))
    return path


FORMS = {
    "jsonl": text("a.jsonl"),
    "ndjson": text("a.ndjson"),
    "upper-case ending": text("A.JSONL"),
    "compressed": text("a.jsonl.gz", lambda told: gzip.compress(told.encode())),
    "with a byte order mark": text("a.jsonl", lambda told: b"\xef\xbb\xbf" + told.encode()),
    "json": lambda rows, path: path.with_name("a.json").write_text(json.dumps(rows)) and path.with_name("a.json"),
    "csv": lambda rows, path: write_csv(rows, path.with_name("a.csv")),
    "tsv": lambda rows, path: write_csv(rows, path.with_name("a.tsv"), sep="\t"),
    "parquet": lambda rows, path: parquet(rows, path.with_name("a.parquet")),
    "shards": shards,
    "saved": saved,
    "several splits": several,
}


@pytest.mark.parametrize("form", FORMS)
def test_questions_are_the_same_rows(tmp_path, form):
    path = FORMS[form](QUESTIONS, tmp_path / "data")
    assert list(load_questions(path, cache_dir=tmp_path / "cache")) == QUESTIONS
    kind, table = read_data(str(path))
    assert (kind, list(table)) == ("questions", QUESTIONS)


@pytest.mark.parametrize("form", FORMS)
def test_pairs_are_the_same_rows(tmp_path, form):
    path = FORMS[form](PAIRS, tmp_path / "data")
    kind, table = read_data(str(path))
    assert kind == "pairs"
    assert [read_row(row, 0) for row in table] == [(r["prompt"], [r["chosen"], r["rejected"]]) for r in PAIRS]
    assert len(fingerprint_of(str(path))) == 64


def test_a_split_is_named(tmp_path):
    path = several(QUESTIONS, tmp_path / "data")
    assert list(load_questions(path, split="test")) == QUESTIONS[:1]
    assert list(read_data(str(path), "test")[1]) == QUESTIONS[:1]
    refused(ValueError, "source has no split 'dev', only ['train', 'test']", lambda: read_data(str(path), "dev"))
    loaded = DatasetDict({"train": Dataset.from_list(QUESTIONS)})
    assert list(load_questions(loaded)) == QUESTIONS


def test_other_contents_of_a_folder_are_other_data(tmp_path):
    path = shards(PAIRS, tmp_path / "data")
    before = fingerprint_of(str(path))
    assert fingerprint_of(str(path)) == before
    Dataset.from_list(PAIRS[:1]).to_parquet(str(path / "train-00001-of-00002.parquet"))
    assert fingerprint_of(str(path)) != before


BROKEN = {
    "latin-1": (
        lines(QUESTIONS[:1]).encode() + '{"context": "Zürich"}\n'.encode("latin-1"),
        "it is not UTF-8, first in row 1, line 2",
    ),
    "empty": (b"", "it is empty"),
    "a broken line": (lines(QUESTIONS[:1]).encode() + b'{"context": "a"\n', "line 2 is no JSON"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_cannot_be_read_is_named_with_its_line(tmp_path, case):
    content, words = BROKEN[case]
    (tmp_path / "mine.jsonl").write_bytes(content)
    for read in (load_questions, lambda path: read_data(str(path))):
        with pytest.raises(ValueError) as error:
            read(tmp_path / "mine.jsonl")
        assert "'mine.jsonl' could not be read" in str(error.value)
        assert words in str(error.value)
        assert "\n" not in str(error.value)


# Columns as benchmarks name them


def test_longbench_and_squad_are_read_as_they_are(tmp_path):
    longbench = {"input": "Who?", "context": "c", "answers": ["a", "b"], "length": 5, "dataset": "qa", "language": "en"}
    longbench |= {"all_classes": None, "_id": "x"}
    (row,) = load_questions(Dataset.from_list([longbench]))
    assert (row["question"], row["context"], row["answer"]) == ("Who?", "c", ["a", "b"])
    assert row["_id"] == "x"
    squad = {
        "id": "1",
        "title": "t",
        "context": "c",
        "question": "Who?",
        "answers": {"text": ["a"], "answer_start": [0]},
    }
    (row,) = load_questions(Dataset.from_list([squad]))
    assert (row["question"], row["answer"]) == ("Who?", ["a"])
    drcd = {
        "context": "c",
        "question": "Who?",
        "answers": [{"text": "a", "answer_start": 0}, {"text": "b", "answer_start": 1}],
    }
    (row,) = load_questions(Dataset.from_list([drcd]))
    assert row["answer"] == ["a", "b"]
    (row,) = load_questions(Dataset.from_list([squad]).to_iterable_dataset())
    assert (row["question"], row["answer"]) == ("Who?", ["a"])


def test_a_summary_of_longbench_has_no_question():
    row = {"input": "", "context": "c", "answers": ["a"]}
    assert next(iter(load_questions(Dataset.from_list([row]))))["question"] == ""
    blank = {"question": "", "context": "c", "answer": "a"}
    refused(ValueError, "source has no 'question' in row 0", lambda: load_questions(Dataset.from_list([blank])))


def test_a_question_that_cannot_be_answered_is_named():
    rows = [{"context": "c", "question": "q", "answers": {"text": texts, "answer_start": []}} for texts in (["a"], [])]
    refused(ValueError, "source has no 'answers' in row 1", lambda: load_questions(Dataset.from_list(rows)))
