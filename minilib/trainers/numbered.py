"""The rows of preference data as the trainer takes them: looked through for what they lack, each with its number.

    list or table    looked through at once        number = place
    stream           looked at as the rows come    number = how many came before

A row's number stands in every complaint about it and seeds its positions (`pair_rows.draw_positions`).

Proven in tests/test_rows_become_packed_batches.py.
"""

from collections.abc import Mapping

from torch.utils.data import Dataset

FIELDS = ("prompt", "chosen", "rejected")
LISTS = ("rejected", "chunks")


class Numbered(Dataset):
    """A table or list whose rows know their place."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict:
        return {**self.rows[number], "number": number}


def number_rows(rows, name: str, *, with_chunks: bool):
    """The rows, each with its `number`; several data sets by name stay a dict of them, None stays None."""
    if rows is None or isinstance(rows, Numbered):
        return rows
    if isinstance(rows, dict):
        return {key: number_rows(part, f"{name}[{key!r}]", with_chunks=with_chunks) for key, part in rows.items()}
    if not hasattr(rows, "__len__"):
        if not hasattr(rows, "map"):
            raise TypeError(f"{name} is a {type(rows).__name__}: give a list of rows, a datasets table or stream.")
        return rows.map(_numbered, with_indices=True, fn_kwargs={"name": name, "with_chunks": with_chunks})
    if len(rows) == 0:
        raise ValueError(f"{name} is empty: give at least one row with {', '.join(FIELDS)}.")
    for number, row in enumerate(rows):
        _check_fields(row, number, name, with_chunks)
    return Numbered(rows)


def _numbered(row: dict, number: int, name: str, with_chunks: bool) -> dict:
    _check_fields(row, number, name, with_chunks)
    return {**row, "number": number}


def _check_fields(row: dict, number: int, name: str, with_chunks: bool) -> None:
    if not isinstance(row, Mapping):
        raise TypeError(f"{name} has a {type(row).__name__} as row {number}: give dicts with {', '.join(FIELDS)}.")
    for field in (*FIELDS, *(("chunks",) if with_chunks else ())):
        value = row.get(field)
        if value is None or len(value) == 0:
            mend = "fill the field or leave out the row"
            if field == "chunks":
                mend = "give the pieces of its context as they stand in the prompt, or train without a target"
            raise ValueError(f"{name} has no {field!r} in row {number}: {mend}.")
        if field in LISTS and isinstance(value, str):
            raise TypeError(
                f"{name} has one text as {field!r} in row {number}: give a list of texts, such as [{field}]."
            )
