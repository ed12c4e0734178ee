"""From rows of text to packed tensors: token ids of a prompt and its 1 + M answers, positions stretched if wished.

    row       {"prompt": ..., "chosen": ..., "rejected": [...], "chunks": [...]}       as `build_pairs` writes them
    tokens    head | chunk 1 | ... | chunk N | tail          each answer: its tokens and <eos>
    positions 0 .. h-1 | slots of the target | consecutive   (`prompt_positions`), drawn anew in every step

where
    chunks    the pieces of the context as they stand in the prompt; a token belongs to the chunk in which it begins,
              and those before and behind all chunks are head and tail

A collated batch is a dict of tensors, which any loader can pin and move: the fields of `Packed` at plain positions, the
`number` of each row, and the `sizes` of its parts. From these `as_packed` gives it the positions of a step, drawn by
(seed, step, row) alone, so that a run that was killed goes on to the same positions.

Departure from the paper: positions are drawn in every step; the authors' data holds about two fixed variants of each
sample (our reading of its counts). `vary` is ours.
Taught in notebooks/13_train_logo_end_to_end.ipynb.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from random import Random
from textwrap import shorten
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from minilib.longcontext import Packed, pack_answers, prompt_positions, stack_packed

FRONT = -1  # where a token begins that stands in front of the text


class TokenRow(NamedTuple):
    """One example as token ids; `sizes` are the tokens of head, chunks and tail, None where no chunks are given."""

    number: int
    prompt: list[int]
    answers: list[list[int]]
    sizes: tuple[int, list[int], int] | None


class PairCollator:
    """A list of numbered rows -> a dict of tensors, see `pack_rows`.

    `num_rejected` takes the first M rejected answers of each row, None all; `with_chunks` finds which tokens belong to
    which chunk, for which the tokenizer must be a fast one.
    """

    def __init__(self, tokenizer, *, num_rejected: int | None = None, with_chunks: bool = False):
        if with_chunks and not getattr(tokenizer, "is_fast", False):
            raise ValueError(
                f"processing_class is a {type(tokenizer).__name__}, which does not tell where its tokens begin: give a "
                "fast tokenizer, or train without a target_length."
            )
        self.tokenizer, self.num_rejected, self.with_chunks = tokenizer, num_rejected, with_chunks

    def __call__(self, rows: Sequence[dict]) -> dict[str, Tensor]:
        pads = (getattr(self.tokenizer, f"{name}_token_id", None) for name in ("pad", "eos"))
        return pack_rows([self.tokenize(row) for row in rows], pad_id=next((pad for pad in pads if pad is not None), 0))

    def tokenize(self, row: dict) -> TokenRow:
        """Token ids of one row, which has its place in the data as `number`."""
        number = row["number"]
        _check_texts(row, number, self.num_rejected)
        prompt, sizes = self._prompt(row, number)
        # An answer continues its prompt behind a blank, unless the prompt ends in white space.
        blank = "" if row["prompt"][-1].isspace() else " "
        texts = (row["chosen"], *row["rejected"][: self.num_rejected])[: row.get("num_answers")]
        end = [self.tokenizer.eos_token_id] if self.tokenizer.eos_token_id is not None else []
        answers = [self.tokenizer.encode(blank + text.lstrip(), add_special_tokens=False) + end for text in texts]
        return TokenRow(number, prompt, answers, sizes)

    def _prompt(self, row: dict, number: int) -> tuple[list[int], tuple | None]:
        start = self.tokenizer.bos_token or "\0"
        special = not row["prompt"].startswith(start)  # a chat template writes it out
        if not self.with_chunks:
            return self.tokenizer.encode(row["prompt"], add_special_tokens=special), None
        wanted = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
        found = self.tokenizer(row["prompt"], add_special_tokens=special, **wanted)
        # What the tokenizer adds in front is no part of a chunk, even where the first chunk opens the prompt.
        added = found["special_tokens_mask"]
        begins = [FRONT if mark else begin for mark, (begin, _) in zip(added, found["offset_mapping"])]
        return found["input_ids"], _sizes(begins, _chunk_starts(row, number), row["prompt"])


def pack_rows(rows: Sequence[TokenRow], *, pad_id: int = 0) -> dict[str, Tensor]:
    """The rows as one batch at plain positions: the fields of `Packed`, row numbers `(b,)`, and `sizes (b, 3 + N)`.

    `sizes` are the tokens of head, tail, longest answer and chunks, 0 where a row has fewer; absent without chunks.
    """
    each = len(rows[0].answers)
    for row in rows:
        if len(row.answers) != each:
            raise ValueError(
                f"row {row.number} has {len(row.answers) - 1} rejected answers and row {rows[0].number} "
                f"{each - 1}: set num_rejected to a number that every row has."
            )
    # `tokenizer.pad` pads on the tokenizer's own side and knows nothing of segments, hence `stack_packed`.
    batch = stack_packed([pack_answers(row.prompt, row.answers) for row in rows], pad_id=pad_id)._asdict()
    batch["number"] = torch.tensor([row.number for row in rows])
    if rows[0].sizes is not None:
        sizes = [(head, tail, max(map(len, answers)), *chunks) for _, _, answers, (head, chunks, tail) in rows]
        batch["sizes"] = pad_sequence([torch.tensor(row) for row in sizes], batch_first=True)
    return batch


def as_packed(batch: Mapping[str, Tensor], draw: Callable[[int, Sequence[int]], Tensor] | None = None) -> Packed:
    """The layout that a collated batch holds, its prompts at the positions `draw(number, sizes)`, by default plain."""
    packed = Packed(**{name: batch[name] for name in Packed._fields})
    if draw is None:
        return packed
    positions = packed.position_ids.clone()  # (b, L)
    for row, number, sizes in zip(positions, batch["number"].tolist(), batch["sizes"].tolist()):
        prompt = draw(number, sizes)  # (P,)
        row += int(prompt[-1]) + 1 - len(prompt)  # answers, and the padding behind them, move as one
        row[: len(prompt)] = prompt
    return packed._replace(position_ids=positions)


def draw_positions(
    number: int, sizes: Sequence[int], *, target: int, mode: str, seed: str, at_end: bool = False, vary: bool = False
) -> Tensor:
    """Positions `(P,)` below `target` of the prompt of row `number` with the `sizes` of `pack_rows`.

    With `vary` the prompt gets a target of its own, drawn evenly from the least that holds it up to `target`.
    """
    head, tail, answer, *chunks = (size for k, size in enumerate(sizes) if size or k < 3)
    rng = Random(f"{seed}/{number}")
    generator = torch.Generator().manual_seed(rng.getrandbits(63))
    least = head + len(chunks) * max(chunks, default=0) + tail + answer
    if vary and least < target:
        target = rng.randint(least, target)
    try:
        return prompt_positions(
            head, chunks, tail, target, answer=answer, at_end=at_end, mode=mode, generator=generator
        )
    except ValueError as error:
        raise ValueError(f"row {number}: {error}") from error


def _check_texts(row: dict, number: int, num_rejected: int | None) -> None:
    texts = {"prompt": row["prompt"], "chosen": row["chosen"]}
    texts |= {f"rejected[{j}]": text for j, text in enumerate(row["rejected"])}
    for name, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"row {number} has {text!r} as {name}: give a text that is not empty.")
    if len(row["rejected"]) < (num_rejected or 0):
        raise ValueError(
            f"row {number} has {len(row['rejected'])} rejected answers and num_rejected is {num_rejected}: lower "
            "num_rejected or leave out the row."
        )


def _chunk_starts(row: dict, number: int) -> list[int]:
    """Where each chunk begins in the prompt, and behind them where the last one ends."""
    starts, at = [], 0
    for c, chunk in enumerate(row["chunks"]):
        text = chunk.strip() if isinstance(chunk, str) else ""  # at the ends of a context `build_pairs` cuts blanks off
        begin = row["prompt"].find(text, at) if text else -1
        if begin < 0:
            raise ValueError(
                f"row {number} has {shorten(repr(chunk), 60)} as chunks[{c}], which its prompt does not hold behind "
                "the chunk before: give the pieces of the context as they stand there, in order."
            )
        starts.append(begin)
        at = begin + len(text)
    return [*starts, at]


def _sizes(begins: list[int], starts: list[int], prompt: str) -> tuple[int, list[int], int]:
    """Tokens before the first chunk, in each chunk, and behind the last one; chunks that got no token are left out.

    A token that begins with the blank before a word belongs to the word.
    """
    words = [_word_from(begin, prompt) for begin in begins]
    counts = [sum(word < start for word in words) for start in starts]
    chunks = [after - before for before, after in pairwise(counts)]
    return counts[0], [size for size in chunks if size], len(begins) - counts[-1]


def _word_from(begin: int, prompt: str) -> int:
    """Where the first word from `begin` on starts; in front of the text, and behind its last word, `begin` itself."""
    if begin < 0:
        return begin
    return next((k for k in range(begin, len(prompt)) if not prompt[k].isspace()), begin)


# Rows and their numbers


FIELDS = ("prompt", "chosen", "rejected")


class Numbered(Dataset):
    """A table or list whose rows know their place, and how many of their answers are wanted (None: all)."""

    def __init__(self, rows, num_answers: int | None = None):
        self.rows, self.num_answers = rows, num_answers

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict:
        return {**self.rows[number], "number": number, "num_answers": self.num_answers}


def number_rows(rows, name: str, *, with_chunks: bool, num_answers: int | None = None):
    """The rows, each with its `number`; several data sets by name stay a dict of them, None stays None."""
    asked = {"with_chunks": with_chunks, "num_answers": num_answers}
    if rows is None:
        return None
    if isinstance(rows, Numbered):
        return Numbered(rows.rows, num_answers)
    if isinstance(rows, dict):
        return {key: number_rows(part, f"{name}[{key!r}]", **asked) for key, part in rows.items()}
    if not hasattr(rows, "__len__"):
        if not hasattr(rows, "map"):
            raise TypeError(f"{name} is a {type(rows).__name__}: give a list of rows, a datasets table or stream.")
        return rows.map(_numbered, with_indices=True, fn_kwargs={"name": name, **asked})
    if len(rows) == 0:
        raise ValueError(f"{name} is empty: give at least one row with {', '.join(FIELDS)}.")
    for number, row in enumerate(rows):
        _check_fields(row, number, name, with_chunks)
    return Numbered(rows, num_answers)


def _numbered(row: dict, number: int, name: str, with_chunks: bool, num_answers: int | None) -> dict:
    _check_fields(row, number, name, with_chunks)
    return {**row, "number": number, "num_answers": num_answers}


def _check_fields(row: dict, number: int, name: str, with_chunks: bool) -> None:
    if not isinstance(row, Mapping):
        raise TypeError(f"{name} has a {type(row).__name__} as row {number}: give dicts with {', '.join(FIELDS)}.")
    for field in (*FIELDS, *(("chunks",) if with_chunks else ())):
        value = row.get(field)
        if value is None or len(value) == 0:
            fix = "fill the field or leave out the row"
            if field == "chunks":
                fix = "give the pieces of its context as they stand in the prompt, or train without a target_length"
            raise ValueError(f"{name} has no {field!r} in row {number}: {fix}.")
        if field in ("rejected", "chunks") and isinstance(value, str):
            raise TypeError(f"{name} has one text as {field!r} in row {number}: give a list of texts, [{field}].")
