"""The forms that a preference row may have, TRL's among them, and the rows of a data set with their numbers.

    plain            {"prompt": text, "chosen": text, "rejected": text or list of texts}
    conversational   the same with lists of {"role": ..., "content": ...} in place of texts
    without prompt   chosen and rejected begin alike: what they share is the prompt

Further fields: `chunks`, the pieces of the context as they stand in the prompt; `separator`, a text that stands between
a prompt and its answers, without which they are joined as given; `tools` and `chat_template_kwargs`, for the template.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from reprlib import repr as short

from torch.utils.data import Dataset

from minilib.common import Notice, raise_first, rows_named
from minilib.longcontext.text_ids import as_texts, shared_start

FIELDS = ("prompt", "chosen", "rejected")


def read_row(row: Mapping, number: int, name: str = "data") -> tuple:
    """Prompt, and answers with the chosen one first: all texts or all lists of messages.

    Raises ValueError or TypeError, one sentence with row and field.
    """
    missing = [field for field in FIELDS if row.get(field) is None or row[field] in ("", [], ())]
    if missing and (missing != ["prompt"] or "prompt" in row):
        raise ValueError(f"{name} has no {missing[0]!r} in row {number}: fill the field or leave out the row.")
    rejected = row["rejected"]
    several = isinstance(rejected, (list, tuple)) and not is_messages(rejected)
    others = {f"rejected[{j}]": answer for j, answer in enumerate(rejected)} if several else {"rejected": rejected}
    fields = {"prompt": row.get("prompt", "-"), "chosen": row["chosen"], **others}
    fields = {field: [value] if isinstance(value, Mapping) else value for field, value in fields.items()}
    for field, value in fields.items():
        _check_value(value, field, number)
    for field, kind, wanted in (("separator", str, "a text"), ("chat_template_kwargs", Mapping, "an object")):
        if not isinstance(row.get(field), (kind, type(None))):
            raise TypeError(f"row {number} has {short(row[field])} as {field}: give {wanted}, or leave it out.")
    asked, *answers = fields.values()
    prompt, answers = _one_kind(asked if "prompt" in row else None, answers, number)
    ends = [message["role"] for one in answers if is_messages(one) for message in (one[0], one[-1])]
    if not {"user", "system"}.isdisjoint(ends):
        came = f"row {number} has an answer that begins or ends with a message of the user or the system"
        raise ValueError(f"{came}: give answers of the assistant, and whole chats that begin alike.")
    return prompt, answers


def is_messages(value) -> bool:
    """Whether the value is a list of chat messages."""
    return isinstance(value, (list, tuple)) and value != [] and all(isinstance(one, Mapping) for one in value)


def _check_value(value, field: str, number: int) -> None:
    if not is_messages(value):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"row {number} has {short(value)} as {field}: give a text that is not empty.")
        return
    for message in value:
        role, content = message.get("role"), as_texts(message).get("content", "")
        may_be_empty = role == "system" or message.get("tool_calls")
        if not (isinstance(role, str) and isinstance(content, str) and (content.strip() or may_be_empty)):
            came = f"row {number} has {short(message)} in {field}"
            raise ValueError(f"{came}: give messages with role and content, which is text.")


def _one_kind(prompt, answers: list, number: int) -> tuple:
    chat = is_messages(answers[0])
    if any(is_messages(answer) != chat for answer in answers):
        raise TypeError(f"row {number} has texts and messages among its answers: give one of the two.")
    if is_messages(prompt) and not chat:
        return prompt, [[{"role": "assistant", "content": answer}] for answer in answers]
    # Whole conversations, with or without a prompt next to them, as TRL takes them: what they share is the prompt.
    shared = shared_start(answers)
    if is_messages(prompt) and shared[: len(prompt)] == prompt:
        shared = prompt
    elif prompt is not None and (is_messages(prompt) or not chat):
        return prompt, answers
    elif chat and not shared and prompt:
        return [{"role": "user", "content": prompt}], answers
    if not chat and shared.endswith(" "):
        shared = shared[:-1]  # a blank before a word goes with the word
    answers = [answer[len(shared) :] for answer in answers]
    if not shared or not all(answers):
        raise ValueError(f"row {number} has no 'prompt', and its answers do not begin alike and differ: give a prompt.")
    return shared, answers


# Rows and their numbers


class Numbered(Dataset):
    """A table or list whose rows know their place, and how many of their answers are wanted (None: all)."""

    def __init__(self, rows, num_answers: int | None = None):
        self.rows, self.num_answers = rows, num_answers

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict:
        return {**self.rows[number], "number": number, "num_answers": self.num_answers}


def number_rows(rows, name: str, *, with_chunks: bool, num_answers: int | None = None):
    """The rows, each with its `number`; several data sets by name stay a dict of them, None stays None.

    Raises ValueError or TypeError that names the bad rows, the first ten of them; warns of answers that are equal.
    """
    asked = {"with_chunks": with_chunks, "num_answers": num_answers}
    if rows is None:
        return None
    if isinstance(rows, Numbered):
        return Numbered(rows.rows, num_answers)
    if isinstance(rows, dict):
        return {key: number_rows(part, f"{name}[{key!r}]", **asked) for key, part in rows.items()}
    if not hasattr(rows, "__len__") and hasattr(rows, "map"):
        return rows.map(_numbered, with_indices=True, fn_kwargs={"name": name, **asked})
    if not hasattr(rows, "__len__"):
        raise TypeError(f"{name} is a {type(rows).__name__}: give a list of rows, a datasets table or stream.")
    if len(rows) == 0:
        raise ValueError(f"{name} is empty: give at least one row with {', '.join(FIELDS)}.")
    faults, equal = [], []
    for number, row in enumerate(rows):
        try:
            answers = _check_row(row, number, name, with_chunks)
            plain = [answer.strip() if isinstance(answer, str) else answer for answer in answers]
            equal += [number] * (plain[0] in plain[1:])
        except (TypeError, ValueError) as error:
            faults.append(error)
    raise_first(faults)
    if equal:
        warnings.warn(f"{name} has {rows_named(equal)} with a rejected answer equal to the chosen one.", Notice, 2)
    return Numbered(rows, num_answers)


def _numbered(row: dict, number: int, name: str, with_chunks: bool, num_answers: int | None) -> dict:
    _check_row(row, number, name, with_chunks)
    return {**row, "number": number, "num_answers": num_answers}


def _check_row(row, number: int, name: str, with_chunks: bool) -> list:
    """The answers of a row that can be read."""
    if not isinstance(row, Mapping):
        raise TypeError(f"{name} has a {type(row).__name__} as row {number}: give dicts with {', '.join(FIELDS)}.")
    _, answers = read_row(row, number, name)
    if with_chunks and not row.get("chunks"):
        fix = "give the pieces of its context as they stand in the prompt, or train without a target_length"
        raise ValueError(f"{name} has no 'chunks' in row {number}: {fix}.")
    if with_chunks and isinstance(row["chunks"], str):
        raise TypeError(f"{name} has one text as 'chunks' in row {number}: give a list of texts, [chunks].")
    return answers
