"""Your own questions about long texts, in the columns that minilib reads.

    a file         JSON Lines, Parquet or Arrow
    a Dataset      a `datasets.Dataset` or stream that you have already loaded, from wherever you like

`datasets` reads and caches; added here is a sentence with the row number where a row lacks a field.
Taught in notebooks/11_make_chosen_and_rejected_answers.ipynb.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from minilib.data.files import open_table

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


def load_questions(
    source: str | Path | Dataset | IterableDataset,
    *,
    context_column: str = "context",
    question_column: str = "question",
    answer_column: str = "answer",
    streaming: bool = False,
    cache_dir: str | Path | None = None,
) -> Dataset | IterableDataset:
    """Read questions about long texts into the columns `context`, `question` and `answer`; further columns stay.

    source: a file, a Dataset or an IterableDataset. An answer is a text, or a list of texts that are all accepted.
    streaming: read a file row by row, for sets larger than the disk's cache; gives an IterableDataset.
    Raises ValueError for a missing path or column, or a row without one of the fields: of a table at once, of a stream
    when it comes to that row.
    """
    from datasets import IterableDataset

    table = source if isinstance(source, IterableDataset) else open_table(source, cache_dir, streaming)[0]
    names = {context_column: "context", question_column: "question", answer_column: "answer"}
    if isinstance(table, IterableDataset):
        renamed = [column for column, name in names.items() if column != name]
        return table.map(_question, with_indices=True, fn_kwargs={"names": names}, remove_columns=renamed)
    for column, name in names.items():
        if column not in table.column_names:
            raise ValueError(
                f"source has no column {column!r} in row 0 nor in any other, only {table.column_names}: name the right "
                f"one with {name}_column."
            )
    for number, row in enumerate(table.select_columns(list(names))):
        _question(row, number, names)
    spare = [name for name in names.values() if name in table.column_names and name not in names]
    table = table.remove_columns(spare)  # columns that are called as ours are, but are not what was asked for
    return table.rename_columns({column: name for column, name in names.items() if column != name})


def _question(row: dict, number: int, names: dict[str, str]) -> dict:
    """The row with its three fields under our names, all of them filled."""
    for column, name in names.items():
        value = row.get(column)
        texts = value if name == "answer" and isinstance(value, (list, tuple)) else [value]
        if value is None or not texts or any(text is None or not str(text).strip() for text in texts):
            raise ValueError(f"source has no {column!r} in row {number}: fill the field or drop the row.")
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"source has a {type(value).__name__} as {column!r} in row {number}: pass text.")
    rest = {column: value for column, value in row.items() if column not in names}
    return rest | {name: row[column] for column, name in names.items()}
