"""Your own questions about long texts, in the columns that minilib reads.

    a file         JSON Lines and what else `open_table` reads
    a folder       of shards, or what `save_to_disk` has written
    a Dataset      a `datasets.Dataset` or stream that you have already loaded, from wherever you like

Columns are found by the names that benchmarks have: LongBench's context, input and answers, SQuAD's context, question
and answers; others are named. `datasets` reads and caches; added here is a sentence with the row number where a row
lacks a field. Taught in notebooks/11_make_chosen_and_rejected_answers.ipynb.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from minilib.common import raise_first
from minilib.data.tables import open_table

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

KNOWN = {
    "context": ("context", "document", "passage", "article"),
    "question": ("question", "input", "query"),
    "answer": ("answer", "answers", "outputs"),
}
MAY_BE_BLANK = "input"  # LongBench's summaries are asked for by nothing but the text


def read_table(source, *, split: str | None = None, streaming: bool = False, cache_dir=None):
    """The table behind a path, or a loaded one; `split` names one of several."""
    table = open_table(source, cache_dir, streaming, split)[0]
    if hasattr(table, "data"):
        _check_encoding(table, source)
    return table


def _check_encoding(table: Dataset, source) -> None:
    """ValueError for bytes that are no UTF-8, which a table of JSON Lines keeps until somebody looks at the row."""
    from pyarrow import ArrowInvalid

    try:
        table.data.table.validate(full=True)
    except ArrowInvalid:
        for number in range(len(table)):
            try:
                table[number]
            except UnicodeDecodeError as error:
                name = Path(source).name if isinstance(source, (str, Path)) else "source"
                raise ValueError(
                    f"source {name!r} could not be read (it is not UTF-8, first in row {number}, line {number + 1} of "
                    "JSON Lines): save it as UTF-8."
                ) from error


def question_columns(columns: list[str], **given: str | None) -> dict[str, str]:
    """Our names of the three columns by those of a table: the given ones, else known ones where they are there."""
    return {
        given.get(name) or next((column for column in known if column in columns), name): name
        for name, known in KNOWN.items()
    }


def load_questions(
    source: str | Path | Dataset | IterableDataset,
    *,
    context_column: str | None = None,
    question_column: str | None = None,
    answer_column: str | None = None,
    split: str | None = None,
    streaming: bool = False,
    cache_dir: str | Path | None = None,
) -> Dataset | IterableDataset:
    """Read questions about long texts into the columns `context`, `question` and `answer`; further columns stay.

    source: a path, a Dataset or an IterableDataset. An answer is a text, or a list of texts that are all accepted, or
    SQuAD's {"text": [...]}. Columns that are not named are found by KNOWN names. split: which one of several.
    streaming: read a file row by row, for sets larger than the disk's cache; gives an IterableDataset.
    Raises ValueError for a missing path or column, or rows without one of the fields: of a table at once, the first ten
    listed, of a stream when it comes to such a row.
    """
    from datasets import IterableDataset

    given = {"context": context_column, "question": question_column, "answer": answer_column}
    stream = isinstance(source, IterableDataset)
    table = source if stream else read_table(source, split=split, streaming=streaming, cache_dir=cache_dir)
    if isinstance(table, IterableDataset):
        names = question_columns(table.column_names or list(next(iter(table), {})), **given)
        renamed = [column for column, name in names.items() if column != name]
        return table.map(_question, with_indices=True, fn_kwargs={"names": names}, remove_columns=renamed)
    names = question_columns(table.column_names, **given)
    for column, name in names.items():
        if column not in table.column_names:
            raise ValueError(
                f"source has no column {column!r} in row 0 nor in any other, only {table.column_names}: name the right "
                f"one with {name}_column."
            )
    return _renamed(table, names, plain=_check_table(table.select_columns(list(names)), names))


def _check_table(table: Dataset, names: dict[str, str]) -> bool:
    """Whether all answers are texts or lists of texts as they stand; ValueError that names rows that lack a field."""
    faults, plain = [], True
    for number, row in enumerate(table):
        try:
            read = _question(row, number, names)
            plain = plain and all(row[column] == read[name] for column, name in names.items())
        except ValueError as error:
            faults.append(error)
    raise_first(faults)
    return plain


def _renamed(table: Dataset, names: dict[str, str], plain: bool) -> Dataset:
    spare = [name for name in names.values() if name in table.column_names and name not in names]
    table = table.remove_columns(spare)  # columns that are called as ours are, but are not what was asked for
    table = table.rename_columns({column: name for column, name in names.items() if column != name})
    return table if plain else table.map(lambda row: {"answer": _texts(row["answer"])}, desc="answers")


def _question(row: dict, number: int, names: dict[str, str]) -> dict:
    """The row with its three fields under our names, all of them filled."""
    found = {}
    for column, name in names.items():
        value = row.get(column)
        value = _texts(value) if name == "answer" else value
        texts = value if name == "answer" and isinstance(value, (list, tuple)) else [value]
        if column == MAY_BE_BLANK and value == "":
            found[name] = value
            continue
        if value is None or not texts or any(text is None or not str(text).strip() for text in texts):
            raise ValueError(f"source has no {column!r} in row {number}: fill the field or drop the row.")
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"source has a {type(row[column]).__name__} as {column!r} in row {number}: pass text.")
        found[name] = value
    return {column: value for column, value in row.items() if column not in names} | found


def _texts(answer):
    """The accepted answers of SQuAD's and DRCD's forms as texts; others as they are."""
    if isinstance(answer, Mapping) and "text" in answer:
        return answer["text"]
    if (
        isinstance(answer, (list, tuple))
        and answer
        and all(isinstance(one, Mapping) and "text" in one for one in answer)
    ):
        return [one["text"] for one in answer]
    return answer
