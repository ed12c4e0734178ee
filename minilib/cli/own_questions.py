"""Your own questions answered by a language model, scored, and kept line by line.

    answers-NAME.jsonl     row, question, accepted answers, what was said, tokens of the prompt, exact, contains, f1
    scores                 means over the questions, in percent of the best where they are printed

Prompts are those of training (`minilib.preferences.haystack_pairs.prompt_for`). Texts longer than the model's window
are asked in full and named, since to reach further is what the alignment is for; where positions come from a table they
are refused; with `cut_middle` the middle of the text is left out, as LongBench does it. An interrupted command goes on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from tqdm.auto import tqdm

from minilib.cli.eval_settings import EvalSettings, answer_tokens_for
from minilib.cli.settings import columns_of, fingerprint_of
from minilib.common import rows_named
from minilib.data.questions import load_questions
from minilib.evals.answers import accepted, answer_scores
from minilib.longcontext.text_ids import prompt_ids
from minilib.models.generation import make_answer_fn, position_table
from minilib.preferences.haystack_pairs import prompt_for
from minilib.preferences.resumable_jsonl import LineLog, fingerprint

BATCH = 16
SCORES = ("exact", "contains", "f1")


class QuestionScores:
    """Asks each model that it is called with (name, loaded, settings); the questions are read once, at the start."""

    def __init__(self, settings: EvalSettings, folder: Path):
        if not settings.data.strip() or not Path(settings.data).exists():
            raise ValueError(f"data {settings.data!r} does not exist: give the path of questions, or leave data out.")
        if folder.resolve().is_relative_to(Path(settings.data).resolve()):
            raise ValueError(f"output {folder} lies in the data, where its files would be questions: choose another.")
        self.folder, self.digest = folder, fingerprint_of(settings.data, folder)
        self.questions = load_questions(settings.data, split=settings.split, **columns_of(settings))

    def __call__(self, name: str, loaded, settings: EvalSettings) -> dict:
        if settings.answer_tokens is None:
            settings = replace(settings, answer_tokens=answer_tokens_for(loaded.window))
        if settings.answer_tokens < 1 or settings.answer_tokens >= loaded.window:
            raise ValueError(
                f"answer_tokens is {settings.answer_tokens:,} and the model's window {loaded.window:,} tokens: give 1 "
                "or more, and less than the window."
            )
        make = _prompts(loaded, settings)
        self._check_lengths(loaded, make, settings)
        log = LineLog(self.folder / f"answers-{name}.jsonl", self._compared(loaded, settings))
        answer = make_answer_fn(loaded.model, loaded.tokenizer, max_new_tokens=settings.answer_tokens)
        self._answer(log, make, answer, name)
        lines = [json.loads(line) for line in log.lines()]
        means = {score: sum(line[score] for line in lines) / len(lines) for score in SCORES}
        return {"questions": len(lines), **means, "cut": sum(line["cut"] for line in lines), "answers": str(log.path)}

    def _answer(self, log: LineLog, make: Callable, answer: Callable, name: str) -> None:
        if log.rows > len(self.questions) or (log.rows and fingerprint(self.questions[log.rows - 1]) != log.last):
            raise ValueError(f"path {log.path} was begun with other questions: delete it, or choose another output.")
        with tqdm(total=len(self.questions), initial=log.rows, desc=name, unit="question") as bar:
            while log.rows < len(self.questions):
                numbers = range(log.rows, min(log.rows + BATCH, len(self.questions)))
                rows = [self.questions[number] for number in numbers]
                prompts = [make(row) for row in rows]
                said = answer([prompt for prompt, *_ in prompts])
                lines = [_line(*found) for found in zip(numbers, rows, prompts, said)]
                log.commit(lines, log.rows + len(rows), fingerprint(rows[-1]), {})
                bar.update(len(rows))

    def _check_lengths(self, loaded, make: Callable, settings: EvalSettings) -> None:
        """A line about texts that are longer than the window; ValueError where the model has no such positions."""
        table = position_table(loaded.model)
        sizes = (make(row)[1] + settings.answer_tokens for row in tqdm(self.questions, desc="lengths", unit="question"))
        long = [number for number, size in enumerate(sizes) if size > (loaded.window if table is None else table)]
        if long and table is not None:
            raise ValueError(
                f"data has questions longer than the {table:,} positions of the model, the answer included, in "
                f"{rows_named(long)}: cut them with cut_middle, or leave them out."
            )
        if long:
            print(
                f"minilib: data has questions longer than the window of {loaded.window:,} tokens in "
                f"{rows_named(long)}: they are asked in full, cut_middle leaves out their middle.",
                file=sys.stderr,
            )

    def _compared(self, loaded, settings: EvalSettings) -> dict:
        names = ("model", "answer_tokens", "cut_middle", "split", "dtype", *columns_of(settings))
        kept = {name: getattr(settings, name) for name in names}
        place = settings.run if settings.model is None else Path(settings.model)
        stats = [(path.name, path.stat()) for path in sorted(place.glob("*.safetensors"))]
        weights = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats]  # answers of another training
        found = {"run": str(settings.run), "weights": weights, "window": loaded.window, "data_sha256": self.digest}
        return kept | found


def report(found: Mapping[str, dict]) -> list[str]:
    """The scores of each model by name as lines of text."""
    wide = max(map(len, found)) + 2
    lines = [" " * wide + f"{'questions':>10}" + "".join(f"{score:>10}" for score in SCORES)]
    for name, scores in found.items():
        lines.append(f"{name:<{wide}}{scores['questions']:>10,}" + "".join(f"{scores[s]:>10.1%}" for s in SCORES))
    return lines


def _line(number: int, row: dict, prompt: tuple, said: str) -> str:
    _, tokens, cut = prompt
    told = {"row": number, "question": row["question"], "accepted": accepted(row), "answer": said}
    return json.dumps(told | {"tokens": tokens, "cut": cut} | answer_scores(said, accepted(row)), ensure_ascii=False)


def _prompts(loaded, settings: EvalSettings) -> Callable[[dict], tuple[str, int, bool]]:
    """A function from a question to its prompt, the tokens of it, and whether its text was cut."""
    tokenizer, prompt_of = loaded.tokenizer, prompt_for(loaded.tokenizer)
    room = loaded.window - settings.answer_tokens

    def make(row: dict) -> tuple[str, int, bool]:
        prompt = prompt_of([row["context"]], row["question"])
        whole = size = len(prompt_ids(tokenizer, prompt))
        keep = len(prompt_ids(tokenizer, row["context"]))
        while settings.cut_middle and size > room:
            keep -= size - room
            if keep < 0:
                raise ValueError(f"question {row['question'][:60]!r} alone is longer than the window: leave it out.")
            prompt = prompt_of([without_middle(tokenizer, row["context"], keep)], row["question"])
            size = len(prompt_ids(tokenizer, prompt))
        return prompt, size, size < whole

    return make


def without_middle(tokenizer, text: str, keep: int) -> str:
    """The first and the last half of `keep` tokens of a text."""
    first, last = keep - keep // 2, keep // 2
    if not getattr(tokenizer, "is_fast", False):
        ids = tokenizer.encode(text, add_special_tokens=False)
        parts = ids[:first], ids[len(ids) - last :]
        return text if keep >= len(ids) else "".join(map(tokenizer.decode, parts))
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    if keep >= len(spans):
        return text
    begin = spans[first - 1][1] if first else 0
    return text[:begin] + (text[spans[len(spans) - last][0] :] if last else "")
