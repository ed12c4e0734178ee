"""From rows of text to packed tensors: token ids of a prompt and its 1 + M answers, positions stretched if wished.

    row       {"prompt": ..., "chosen": ..., "rejected": [...], "chunks": [...]}       see `preference_rows`
    tokens    head | chunk 1 | ... | chunk N | tail          each answer: its tokens and its end, see `text_ids`
    positions 0 .. h-1 | slots of the target | consecutive   (`prompt_positions`), drawn anew in every step

where
    chunks    the pieces of the context as they stand in the prompt; a token belongs to the chunk in which it begins,
              and those before and behind all chunks are head and tail

A collated batch is a dict of tensors, which any loader can pin and move. `as_packed` gives it the positions of a step,
drawn by (seed, step, row) alone, so that a run that was killed goes on to the same positions.

Departure from the paper: positions are drawn in every step; the authors' data holds about two fixed variants of each
sample (our reading of its counts). `vary` is ours. Taught in notebooks/13_train_logo_end_to_end.ipynb.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from random import Random
from reprlib import repr as short
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minilib.longcontext import Packed, pack_answers, prompt_positions, stack_packed
from minilib.longcontext.text_ids import question_end, render_chat, text_ids, turn_end
from minilib.trainers.preference_rows import Numbered, is_messages, number_rows, read_row

__all__ = ["Numbered", "PairCollator", "TokenRow", "as_packed", "draw_positions", "number_rows", "pack_rows"]


class TokenRow(NamedTuple):
    """One example as token ids; `sizes` are the tokens of head, chunks and tail, None where no chunks are given."""

    number: int
    prompt: list[int]
    answers: list[list[int]]
    sizes: tuple[int, list[int], int] | None


class PairCollator:
    """A list of numbered rows -> a dict of tensors, see `pack_rows`.

    `num_rejected` takes the first M rejected answers of a row, None all; `with_chunks` finds the tokens of each chunk,
    for which the tokenizer must be a fast one.
    """

    def __init__(self, tokenizer, *, num_rejected: int | None = None, with_chunks: bool = False):
        if with_chunks and not getattr(tokenizer, "is_fast", False):
            came = f"processing_class is a {type(tokenizer).__name__}, which does not tell where its tokens begin"
            raise ValueError(f"{came}: give a fast tokenizer, or train without a target_length.")
        self.tokenizer, self.num_rejected, self.with_chunks = tokenizer, num_rejected, with_chunks
        self.asked, self.turn = question_end(tokenizer), turn_end(tokenizer)

    def __call__(self, rows: Sequence[dict]) -> dict[str, Tensor]:
        return pack_rows([self.tokenize(row) for row in rows])

    def tokenize(self, row: dict) -> TokenRow:
        """Token ids of one row, which has its place in the data as `number`."""
        prompt, answers, ended = self._texts(row, row["number"])
        ids, tails, begins = text_ids(self.tokenizer, prompt, answers)
        if [] in (ids, *tails):
            j = [ids, *tails].index([])
            field = ("prompt", "chosen", f"rejected[{j - 2}]")[min(j, 2)]
            raise ValueError(f"row {row['number']} has no token in {field}: give a text that the tokenizer knows.")
        end = [] if ended or self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        tails = [tail if tail[-1:] == end else tail + end for tail in tails]
        sizes = _sizes(begins, _chunk_starts(row, row["number"], prompt), prompt) if self.with_chunks else None
        return TokenRow(row["number"], ids, tails, sizes)

    def _texts(self, row: dict, number: int) -> tuple[str, list[str], bool]:
        """The prompt, the answers that are wanted as they continue it, and whether they have the end of a turn."""
        prompt, answers = read_row(row, number)
        if len(answers) - 1 < (self.num_rejected or 0):
            came = f"row {number} has {len(answers) - 1} rejected answers and num_rejected is {self.num_rejected}"
            raise ValueError(f"{came}: lower num_rejected or leave out the row.")
        wanted = len(answers) if self.num_rejected is None else 1 + self.num_rejected
        answers = answers[:wanted][: row.get("num_answers")]
        if is_messages(prompt):
            more = {"tools": row.get("tools"), **(row.get("chat_template_kwargs") or {})}
            try:
                return *render_chat(self.tokenizer, prompt, answers, **more), bool(self.turn)
            except ValueError as error:
                raise ValueError(f"row {number}: {error}") from error
        answers = [(row.get("separator") or "") + answer for answer in answers]
        if not self.turn or not self.asked.strip() or not prompt.endswith(self.asked):
            return prompt, answers, False
        return prompt, [text if text.rstrip().endswith(self.turn) else text + self.turn for text in answers], True


def pack_rows(rows: Sequence[TokenRow], *, pad_id: int = 0) -> dict[str, Tensor]:
    """The rows as one batch at plain positions: the fields of `Packed`, row numbers `(b,)`, and `sizes (b, 3 + N)`.

    `sizes` are the tokens of head, tail, longest answer and chunks, 0 where a row has fewer; absent without chunks.
    """
    each = len(rows[0].answers)
    for row in rows:
        if len(row.answers) != each:
            came = f"row {row.number} has {len(row.answers) - 1} rejected answers and row {rows[0].number} {each - 1}"
            raise ValueError(f"{came}: set num_rejected to a number that every row has.")
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
    place = {"answer": answer, "at_end": at_end, "mode": mode, "generator": generator}
    try:
        return prompt_positions(head, chunks, tail, target, **place)
    except ValueError as error:
        raise ValueError(f"row {number}: {error}") from error


def _chunk_starts(row: dict, number: int, prompt: str) -> list[int]:
    """Where each chunk begins in the prompt, and behind them where the last one ends."""
    starts, at = [], 0
    for c, chunk in enumerate(row["chunks"]):
        text = chunk.strip() if isinstance(chunk, str) else ""  # at the ends of a context `build_pairs` cuts blanks off
        begin = prompt.find(text, at) if text else -1
        if begin < 0:
            fault = f"{short(chunk)} as chunks[{c}], which its prompt does not hold behind the chunk before"
            raise ValueError(f"row {number} has {fault}: give the pieces of the context as they stand there, in order.")
        starts.append(begin)
        at = begin + len(text)
    return [*starts, at]


def _sizes(begins: list[int], starts: list[int], prompt: str) -> tuple[int, list[int], int]:
    """Tokens before the first chunk, in each chunk, and behind the last one; chunks that got no token are left out.

    A token that begins with the blank before a word belongs to the word.
    """
    words = [_word_from(begin, prompt) for begin in begins]
    counts = [sum(word < start for word in words) for start in starts]
    return counts[0], [b - a for a, b in pairwise(counts) if b > a], len(begins) - counts[-1]


def _word_from(begin: int, prompt: str) -> int:
    """Where the first word from `begin` on starts; in front of the text, and behind its last word, `begin` itself."""
    if begin < 0:
        return begin
    return next((k for k in range(begin, len(prompt)) if not prompt[k].isspace()), begin)
