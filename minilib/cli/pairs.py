"""Where the rows of a `logo` run come from: a file of pairs, or questions that the model answers itself first.

    "haystack"    made questions with known facts           -> pairs.jsonl in the run's folder
    questions     a file with context, question, answer     -> pairs.jsonl in the run's folder (`build_pairs`)
    pairs         a file of preference rows, see `minilib.trainers.preference_rows`

What a file holds is seen from its columns. Answering goes on after an interrupt; of several ranks the first one answers
and the others wait for `pairs_report.json` next to the pairs. Taught in notebooks/13_train_logo_end_to_end.ipynb.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from minilib.cli.run_folder import PAIRS, read_object, write_json
from minilib.cli.settings import HAYSTACK, LogoSettings
from minilib.common import raise_first, rows_named
from minilib.data.questions import load_questions, question_columns, read_table
from minilib.data.running_text import token_counter
from minilib.evals.answers import ends_unbroken
from minilib.models.generation import make_answer_fn, position_table
from minilib.preferences import build_pairs, rare_words, spacy_entities
from minilib.preferences.haystack_pairs import haystack_pairs, prompt_for, repeatable, separator_for
from minilib.trainers.collator import Numbered, PairCollator, as_packed, draw_positions, number_rows, pack_rows
from minilib.trainers.preference_rows import is_messages

if TYPE_CHECKING:
    from datasets import Dataset

    from minilib.models.loading import Loaded

ANSWERS, QUESTION = ("chosen", "rejected"), ("context", "question", "answer")
FIELDS = ("prompt", *ANSWERS, "chunks", "separator", "tools", "chat_template_kwargs")  # what training reads
QUESTIONS = ("question", "instruction", "input")  # what stands in place of a prompt, with `system` before it
REPORT = "pairs_report.json"


def read_data(
    data: str, split: str | None = None, columns: Mapping[str, str | None] | None = None
) -> tuple[str, Dataset | None]:
    """("haystack", None), ("pairs", table) or ("questions", table); ValueError for a file that is none of them."""
    if data == HAYSTACK:
        return HAYSTACK, None
    if (Path(data) / REPORT).is_file():  # the folder of `pairs`, whose other files are no table
        data = str(Path(data) / PAIRS)
    table = read_table(data, split=split)
    if set(ANSWERS) <= set(table.column_names):
        return "pairs", _pairs(table)
    given = {name.removesuffix("_column"): column for name, column in (columns or {}).items()}
    if any(given.values()) or set(question_columns(table.column_names, **given)) <= set(table.column_names):
        questions = load_questions(table, **(columns or {}))
        if blank := [number for number, asked in enumerate(questions["question"]) if not asked.strip()]:
            raise ValueError(f"data has no question in {rows_named(blank)}: fill the field or leave out the row.")
        return "questions", questions
    raise ValueError(
        f"data {data!r} has the columns {table.column_names}: give pairs with prompt, {', '.join(ANSWERS)}, or "
        f"questions with {', '.join(QUESTION)}, or name their columns."
    )


def fit_to_data(given: LogoSettings, settings: LogoSettings, kind: str, table: Dataset | None) -> LogoSettings:
    """The settings without what nobody asked for and the pairs do not have: a target without chunks, more answers."""
    if kind != "pairs":
        return settings
    found = {}
    if given.num_rejected is None:
        found["num_rejected"] = min(settings.num_rejected, max(map(_count, table["rejected"])))
    if given.target_length is None and given.rope == "none" and "chunks" not in table.column_names:
        found["target_length"] = 0
    return replace(settings, **found)


def _count(rejected) -> int:
    several = isinstance(rejected, list) and not is_messages(rejected)
    return len(rejected) if several else 1


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
            f"data {settings.data!r} gave no pair, {folder / REPORT} counts why: ask about more or other questions, or "
            f"{_advice(folder / REPORT, settings)}, in another output."
        )
    return _pairs(read_table(folder / PAIRS))


def _advice(report: Path, settings: LogoSettings) -> str:
    """What to change where no question became a pair, by the most frequent reason."""
    skipped = read_object(report, f"{report} is damaged").get("skipped", {})
    advice = {
        "no critical chunk": f"lower threshold, which is {settings.threshold:g}",
        "no irrelevant chunk": "give longer texts or lower chunk_size",
        "too few rejected answers": "lower num_rejected or raise temperature",
        "longer than the model reads": "lower chunk_size or answer_tokens",
    }
    return advice.get(max(skipped, key=skipped.get, default=""), "try another model")


def numbered(table: Dataset, settings: LogoSettings) -> Numbered:
    """The rows with their numbers, after a look that none lacks a field; ValueError naming the first that does."""
    with_chunks = settings.target_length > 0
    if with_chunks and "chunks" not in table.column_names:
        raise ValueError(
            f"data {settings.data!r} has no column 'chunks': give each row the pieces of its context, or train at "
            "plain positions with target_length 0."
        )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            rows = number_rows(table, "data", with_chunks=with_chunks)
        except TypeError as error:  # to the command's user it is the data that are wrong, not the call
            raise ValueError(str(error)) from error
    for warning in told:
        _say(str(warning.message))
    return rows


def check_rows(rows: Numbered, tokenizer, settings: LogoSettings, window: int | None = None) -> int:
    """Turn every row into tokens and positions once; returns the tokens of the longest prompt.

    Raises ValueError naming the bad rows, those longer than `window` tokens among them; angles that are stretched reach
    as far as the target.
    """
    target = settings.target_length
    reach = target if settings.rope != "none" else window
    placed = {"target": target, "mode": settings.position_mode, "seed": "check", "vary": settings.vary_target}
    collator = PairCollator(tokenizer, num_rejected=settings.num_rejected, with_chunks=target > 0)
    longest, faults, glued, twice = 0, [], [], []
    for number in tqdm(range(len(rows)), desc="rows", unit="row"):
        try:
            row = collator.tokenize(rows[number])
            batch = pack_rows([row])
            if target:
                as_packed(batch, partial(draw_positions, **placed))
            if reach is not None and len(row.prompt) + max(map(len, row.answers)) > reach:
                raise ValueError(
                    f"row {number} has {len(row.prompt):,} tokens of prompt and {max(map(len, row.answers)):,} of an "
                    f"answer, and the model reads {reach:,}: shorten or leave out the row, or stretch with rope."
                )
            longest = max(longest, len(row.prompt))
            glued += [number] * _runs_together(rows[number])
            twice += [number] * _repeats_prompt(rows[number])
        except ValueError as error:
            faults.append(error)
    raise_first(faults)
    if twice:
        _say(f"data has {rows_named(twice)} with a chosen answer that repeats the prompt before it.")
    if glued:
        _say(
            f"data has no blank between prompt and chosen answer in {rows_named(glued)}, and none is put there: begin "
            'the answers with one, or give each row "separator": " ".'
        )
    return longest


def _runs_together(row: Mapping) -> bool:
    """Whether a prompt and an answer make one word of two, which may be meant in a script without blanks."""
    prompt, chosen, separator = row.get("prompt"), row["chosen"], row.get("separator")
    texts = isinstance(prompt, str) and isinstance(chosen, str)
    if not texts or separator or ends_unbroken(prompt) or ends_unbroken(chosen[:1]):
        return False
    return (prompt[-1].isalnum() or prompt[-1] in ":?.!,;") and chosen[0].isalnum()


def _repeats_prompt(row: Mapping) -> bool:
    prompt, chosen = row.get("prompt"), row["chosen"]
    return isinstance(prompt, str) and isinstance(chosen, str) and chosen.startswith(prompt)


def _say(text: str) -> None:
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"minilib: {text}", file=sys.stderr)


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
    most = settings.target_length if settings.rope != "none" else loaded.window
    if position_table(loaded.model) is not None:  # it cannot answer at all where its table ends
        answer = _where_it_fits(answer, token_counter(loaded.tokenizer), most - settings.answer_tokens)
    return build_pairs(
        questions, repeatable(answer), scorer=scorer_of(settings.scorer), tokenizer=loaded.tokenizer,
        prompt_fn=prompt_for(loaded.tokenizer), path=path, chunk_size=settings.chunk_size, max_tokens=most,
        num_chunks=settings.num_chunks, threshold=settings.threshold, num_rejected=settings.num_rejected,
        seed=settings.seed, separator=separator_for(loaded.tokenizer),
    )  # fmt: skip


def _where_it_fits(answer: Callable, count: Callable[[str], int], most: int) -> Callable[[list[str]], list[str]]:
    """The same answers, and an empty one, for which another is asked, to a prompt of more than `most` tokens."""

    def answered(prompts: list[str]) -> list[str]:
        fits = [count(prompt) + 2 <= most for prompt in prompts]
        found = iter(answer([prompt for prompt, fit in zip(prompts, fits) if fit]))
        return [next(found) if fit else "" for fit in fits]

    return answered


def scorer_of(name: str) -> Callable:
    """The scorer of this name; ValueError when spaCy is wanted and not there."""
    return spacy_entities() if name == "entities" else rare_words


def _pairs(table: Dataset) -> Dataset:
    """Only the columns that training reads; a question without a prompt, as in Orca's pairs, becomes one."""
    columns = {*table.column_names}
    if "prompt" not in columns and columns & {*QUESTIONS}:
        table = table.map(_asked, with_indices=True, desc="prompts")
    else:
        for name in sorted({"system", "system_prompt"} & columns):
            _say(f"data has a column {name!r}, which is not read: put it into the prompt.")
    return table.select_columns([name for name in FIELDS if name in table.column_names])


def _asked(row: dict, number: int) -> dict:
    """The question of a row as its prompt, behind the system's message."""
    asked = [name for name in QUESTIONS if row.get(name)]
    if len(asked) != 1 or not isinstance(row[asked[0]], str):
        told = " and ".join(map(repr, asked)) or f"no {QUESTIONS[0]!r}"
        raise ValueError(
            f"data has {told} and no 'prompt' in row {number}: give what the model shall read as a prompt."
        )
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    return {"prompt": [*system, {"role": "user", "content": row[asked[0]]}]}


def _told(skipped: dict[str, int]) -> str:
    return " (skipped: " + ", ".join(f"{count} {reason}" for reason, count in skipped.items()) + ")" if skipped else ""
