"""Where the rows of a `logo` run come from: a file of pairs, or questions that the model answers itself first.

    "haystack"    made questions with known facts           -> pairs.jsonl in the run's folder
    questions     a file with context, question, answer     -> pairs.jsonl in the run's folder (`build_pairs`)
    pairs         a file with prompt, chosen, rejected (a text or a list of texts), and chunks

What a file holds is seen from its columns. Answering goes on after an interrupt; of several ranks the first one answers
and the others wait for `pairs_report.json` next to the pairs. Taught in notebooks/13_train_logo_end_to_end.ipynb.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from minilib.cli.run_folder import PAIRS, write_json
from minilib.cli.settings import HAYSTACK, LogoSettings
from minilib.data.files import open_table
from minilib.data.questions import load_questions
from minilib.models.generation import make_answer_fn
from minilib.preferences import build_pairs, plain_prompt, rare_words, spacy_entities
from minilib.preferences.haystack_pairs import chunks_as_prompt, haystack_pairs, repeatable
from minilib.trainers.collator import Numbered, PairCollator, as_packed, draw_positions, number_rows

if TYPE_CHECKING:
    from datasets import Dataset

    from minilib.models.loading import Loaded

PAIR, QUESTION = ("prompt", "chosen", "rejected"), ("context", "question", "answer")
REPORT = "pairs_report.json"


def read_data(data: str) -> tuple[str, Dataset | None]:
    """("haystack", None), ("pairs", table) or ("questions", table); ValueError for a file that is none of them."""
    if data == HAYSTACK:
        return HAYSTACK, None
    table = open_table(data, None)[0]
    if set(PAIR) <= set(table.column_names):
        return "pairs", _pairs(table)
    if set(QUESTION) <= set(table.column_names):
        return "questions", load_questions(table)
    raise ValueError(
        f"data {data!r} has the columns {table.column_names}: give pairs with {', '.join(PAIR)}, or questions with "
        f"{', '.join(QUESTION)}."
    )


def answered_pairs(kind: str, questions: Dataset | None, settings: LogoSettings, loaded: Loaded, rank: int) -> Dataset:
    """The pairs of these questions: built by rank 0 where they are not finished yet, then read by all."""
    folder = settings.output
    if rank == 0 and not (folder / REPORT).exists():
        make = partial(_from_haystacks, loaded) if kind == HAYSTACK else partial(_from_questions, loaded, questions)
        report = make(settings, folder / PAIRS).run()
        write_json(folder / REPORT, report.to_dict())
        print(f"{report.pairs:,} pairs out of {report.rows:,} questions{_told(report.skipped)}")
    while not (folder / REPORT).exists():
        time.sleep(0.5)
    if not (folder / PAIRS).exists() or not (folder / PAIRS).stat().st_size:
        raise ValueError(
            f"data {settings.data!r} gave no pair, {folder / REPORT} counts why: ask about more or other questions, "
            "lower threshold or raise num_chunks."
        )
    return _pairs(open_table(folder / PAIRS, None)[0])


def numbered(table: Dataset, settings: LogoSettings) -> Numbered:
    """The rows with their numbers, after a look that none lacks a field; ValueError naming the first that does."""
    with_chunks = settings.target_length > 0
    if with_chunks and "chunks" not in table.column_names:
        raise ValueError(
            f"data {settings.data!r} has no column 'chunks': give each row the pieces of its context, or train at "
            "plain positions with target_length 0."
        )
    try:
        return number_rows(table, "data", with_chunks=with_chunks)
    except TypeError as error:  # to the command's user it is the data that are wrong, not the call
        raise ValueError(str(error)) from error


def check_rows(rows: Numbered, tokenizer, settings: LogoSettings) -> int:
    """Turn every row into tokens and positions once; returns the tokens of the longest prompt.

    Raises ValueError naming the first bad row.
    """
    target = settings.target_length
    placed = {"target": target, "mode": settings.position_mode, "seed": "check", "vary": settings.vary_target}
    collator = PairCollator(tokenizer, num_rejected=settings.num_rejected, with_chunks=target > 0)
    longest = 0
    for number in tqdm(range(len(rows)), desc="rows", unit="row"):
        batch = collator([rows[number]])
        longest = max(longest, int((batch["segment_ids"] == 0).sum()))
        if target:
            as_packed(batch, partial(draw_positions, **placed))
    return longest


def prompt_for(tokenizer) -> Callable[[list[str], str], str]:
    """Chunks and question as a prompt: in the tokenizer's chat template if it has one, else as `tiny_lm` knows them."""
    if not getattr(tokenizer, "chat_template", None):
        return chunks_as_prompt

    def chat_prompt(chunks: list[str], question: str) -> str:
        message = [{"role": "user", "content": plain_prompt(chunks, question)}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        return text.removeprefix(tokenizer.bos_token or "")  # encoding will put it there again

    return chat_prompt


def _from_haystacks(loaded: Loaded, settings: LogoSettings, path: Path):
    return haystack_pairs(
        loaded.model, loaded.tokenizer, path=path, temperature=settings.temperature, rows=settings.rows,
        num_rejected=settings.num_rejected, length=settings.length, chunk_size=settings.chunk_size,
        num_chunks=settings.num_chunks, seed=settings.seed,
    )  # fmt: skip


def _from_questions(loaded: Loaded, questions: Dataset, settings: LogoSettings, path: Path):
    answer = make_answer_fn(
        loaded.model, loaded.tokenizer, max_new_tokens=settings.answer_tokens, temperature=settings.temperature
    )
    return build_pairs(
        questions, repeatable(answer), scorer=scorer_of(settings.scorer), tokenizer=loaded.tokenizer,
        prompt_fn=prompt_for(loaded.tokenizer), path=path, chunk_size=settings.chunk_size,
        num_chunks=settings.num_chunks, threshold=settings.threshold, num_rejected=settings.num_rejected,
        seed=settings.seed,
    )  # fmt: skip


def scorer_of(name: str) -> Callable:
    """The scorer of this name; ValueError when spaCy is wanted and not there."""
    return spacy_entities() if name == "entities" else rare_words


def _pairs(table: Dataset) -> Dataset:
    """Only the columns that training reads, and one rejected answer as a list of one."""
    table = table.select_columns([name for name in (*PAIR, "chunks") if name in table.column_names])
    if getattr(table.features["rejected"], "dtype", None) not in ("string", "large_string"):
        return table
    return table.map(lambda row: {"rejected": None if row["rejected"] is None else [row["rejected"]]}, desc="rejected")


def _told(skipped: dict[str, int]) -> str:
    return " (skipped: " + ", ".join(f"{count} {reason}" for reason, count in skipped.items()) + ")" if skipped else ""
