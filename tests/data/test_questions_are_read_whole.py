"""Proves that questions about long texts come whole from every kind of source, and that a hole is named by its row."""

import json

import pytest
from datasets import Dataset
from support.reference import refused

from minilib.data.questions import load_questions

ROWS = [
    {
        "context": "Lisbon keeps amber.",
        "question": "What does Lisbon keep?",
        "answer": "amber",
        "facts": [{"name": "Lisbon"}],
    },
    {"context": "Oslo keeps tea.", "question": "What does Oslo keep?", "answer": "tea", "facts": []},
]
STREAMING = pytest.mark.parametrize("streaming", [False, True], ids=["table", "stream"])


def write(folder, rows):
    path = folder / "mine.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@STREAMING
def test_json_lines_keep_every_row_and_every_further_column(tmp_path, streaming):
    rows = load_questions(write(tmp_path, ROWS), streaming=streaming, cache_dir=tmp_path / "cache")
    assert list(rows) == ROWS
    assert list(rows.skip(1)) == ROWS[1:]


@STREAMING
def test_columns_of_other_names_and_several_accepted_answers_are_read(tmp_path, streaming):
    path = write(tmp_path, [{"text": "c", "ask": "q", "gold": ["a", "b"], "answer": 3}])
    names = {"context_column": "text", "question_column": "ask", "answer_column": "gold"}
    rows = load_questions(path, **names, streaming=streaming, cache_dir=tmp_path / "cache")
    assert list(rows) == [{"context": "c", "question": "q", "answer": ["a", "b"]}]


def test_loaded_tables_and_streams_are_read():
    table = Dataset.from_list(ROWS)
    assert list(load_questions(table)) == ROWS
    assert list(load_questions(table.to_iterable_dataset())) == ROWS


def test_a_parquet_file_is_read(tmp_path):
    Dataset.from_list(ROWS).to_parquet(str(tmp_path / "mine.parquet"))
    assert list(load_questions(tmp_path / "mine.parquet", cache_dir=tmp_path / "cache")) == ROWS


HOLES = {
    "absent": ({"context": "c", "question": "q"}, "source has no 'answer' in row 2"),
    "null": ({"context": None, "question": "q", "answer": "a"}, "source has no 'context' in row 2"),
    "blank": ({"context": "c", "question": " ", "answer": "a"}, "source has no 'question' in row 2"),
}


@STREAMING
@pytest.mark.parametrize("case", HOLES)
def test_a_row_without_a_field_is_named_by_its_number_and_its_field(tmp_path, case, streaming):
    row, words = HOLES[case]
    path = write(tmp_path, [*ROWS, row])
    refused(ValueError, words, lambda: list(load_questions(path, streaming=streaming, cache_dir=tmp_path / "cache")))


@STREAMING
def test_an_empty_list_of_answers_and_a_number_for_a_text_are_named(tmp_path, streaming):
    settings = {"streaming": streaming, "cache_dir": tmp_path / "cache"}
    path = write(tmp_path, [{**ROWS[0], "answer": ["a"]}, {**ROWS[0], "answer": []}])
    refused(ValueError, "source has no 'answer' in row 1", lambda: list(load_questions(path, **settings)))
    path = write(tmp_path, [{**ROWS[0], "question": 7}])
    refused(ValueError, "source has a int as 'question' in row 0", lambda: list(load_questions(path, **settings)))


def test_a_column_that_no_row_has_is_named_with_the_argument_that_mends_it(tmp_path):
    path = write(tmp_path, [{"context": "c", "question": "q", "gold": "a"}])
    refused(
        ValueError,
        "source has no column 'answer' in row 0 nor in any other",
        lambda: load_questions(path, cache_dir=tmp_path / "cache"),
    )


def test_a_missing_file_and_a_wrong_type_are_refused(tmp_path):
    refused(ValueError, "does not exist", lambda: load_questions(tmp_path / "nowhere.jsonl"))
    refused(TypeError, "source must be a path", lambda: load_questions(3))
