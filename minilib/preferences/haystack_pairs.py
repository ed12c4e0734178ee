"""Preference pairs about haystacks, answered by the model that is to be aligned: LOGO's data at toy size, offline.

    question k   a long haystack with one asked name among `distractors` others; every fourth asks for two details
    pair k       `build_pairs` on it: 8 chunks of 28 tokens, which fill `tiny_lm`'s window as 16 of 512 fill 8K tokens

Answers are drawn at temperature 0.7, as in the released code, from a generator that depends on the prompts alone: the
same pairs come out after any interruption. Departure from the paper, which keeps whatever the model answers: pairs
whose chosen answer is wrong are left out and counted (`require_right`), since a toy model is too often wrong.
Taught in notebooks/13_train_logo_end_to_end.ipynb.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from minilib.data.facts import as_prompt
from minilib.data.haystack import haystack
from minilib.data.rows import positive_int
from minilib.models.generation import IN_SHORT, answer_room, make_answer_fn, question_form
from minilib.preferences.assembly import Pairs
from minilib.preferences.build import PairsConfig, build_pairs
from minilib.preferences.importance import exact_entities

LENGTH = 960  # tokens of a haystack
CHUNK, CHUNKS = 28, 8
EVERY = 4  # one question in so many asks for two details
AT_ONCE = 32 * LENGTH  # tokens of the haystacks that are worked on at a time: a batch that is interrupted is lost


def long_questions(rows: int, tokenizer: Callable, *, length: int = LENGTH, distractors: int = 12, seed: int = 0):
    """The first `rows` haystacks of a seed, three with a single detail to every one with two."""
    kinds = ("single", "multi")
    settings = {"length": length, "distractors": distractors, "tokenizer": tokenizer}
    single, multi = (haystack(kind=kind, seed=2 * seed + k, **settings) for k, kind in enumerate(kinds))
    return [next(multi if number % EVERY == EVERY - 1 else single) for number in range(positive_int(rows, "rows"))]


def haystack_pairs(
    model: nn.Module,
    tokenizer: Callable,
    *,
    rows: int = 400,
    num_rejected: int = 2,
    length: int = LENGTH,
    distractors: int = 12,
    num_chunks: int = CHUNKS,
    chunk_size: int = CHUNK,
    temperature: float = 0.7,
    require_right: bool = True,
    tries: int = 8,
    seed: int = 0,
    path: str | Path | None = None,
    progress: bool = True,
) -> Pairs:
    """Pairs for `LogoTrainer`, made as they are iterated over; fewer than `rows`, and `report` says why.

    rows: haystacks that are asked about. num_rejected: M, different wrong answers. length, distractors: of a haystack.
    num_chunks, chunk_size: N chunks of so many tokens are read at a time. temperature: of the answers. tries: rounds of
    asking for rejected answers. path: JSON Lines to write to and to go on with.
    """
    answer = make_answer_fn(model, tokenizer, max_new_tokens=answer_room(tokenizer), temperature=temperature)
    return build_pairs(
        long_questions(rows, tokenizer, length=length, distractors=distractors, seed=seed),
        repeatable(answer),
        PairsConfig(
            threshold=0, chunk_size=chunk_size, num_chunks=num_chunks, num_rejected=num_rejected,
            require_right=require_right, tries=tries, seed=seed, batch_size=max(1, min(32, AT_ONCE // length)),
            separator=separator_for(tokenizer),
        ),
        scorer=exact_entities, tokenizer=tokenizer, prompt_fn=prompt_for(tokenizer, IN_SHORT), path=path,
        progress=progress,
    )  # fmt: skip


def chunks_as_prompt(chunks: list[str], question: str) -> str:
    """The chunks as they stood in the haystack, then the question in the form that `tiny_lm` was trained on."""
    return as_prompt("".join(chunks).strip(), question)


def prompt_for(tokenizer, before: str = "") -> Callable[[list[str], str], str]:
    """Chunks and question as a prompt: in the tokenizer's chat template if it has one, else as `tiny_lm` knows them.

    before: what is put before the question of a chat.
    """
    if not getattr(tokenizer, "chat_template", None):
        return chunks_as_prompt
    form = question_form(tokenizer, before)

    def chat_prompt(chunks: list[str], question: str) -> str:
        return form("".join(chunks).strip(), question)

    return chat_prompt


def separator_for(tokenizer) -> str | None:
    """What stands between such a prompt and its answers: nothing behind a chat template, else see `PairsConfig`."""
    return "" if getattr(tokenizer, "chat_template", None) else None


def at_full_length(pairs: list[dict], questions: list[dict]) -> list[dict]:
    """The same pairs with the whole haystack in the prompt instead of a few of its chunks; for comparison."""
    contexts = [questions[pair["row"]]["context"] for pair in pairs]
    return [
        pair | {"prompt": as_prompt(context, pair["question"]), "chunks": [context]}
        for pair, context in zip(pairs, contexts)
    ]


def first_pairs(pairs: Pairs, count: int) -> list[dict]:
    """The first `count` pairs; ValueError when fewer came out."""
    found = list(islice(pairs, count))
    if len(found) < count:
        raise ValueError(f"count is {count} and only {len(found)} pairs came out: ask about more rows.")
    return found


def repeatable(answer: Callable[[list[str]], list[str]]) -> Callable[[list[str]], list[str]]:
    """The same answers to the same prompts, and nobody else's random numbers are touched."""

    def repeated(prompts: list[str]) -> list[str]:
        with torch.random.fork_rng():
            torch.manual_seed(zlib.crc32("\0".join(prompts).encode()))
            return answer(prompts)

    return repeated
