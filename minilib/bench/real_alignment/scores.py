"""What a model can do, cheaply measured, part by part: a part that is done is not done again after an interrupt.

    texts-N        answers about all four people of each text of N tokens, the text computed once
    general        short questions of general knowledge, without any text
    perplexity     of running text, at 1,024 tokens

Every answer is kept with its verdict, so that a table can be made anew, and an interval drawn from texts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from minilib.bench.real_alignment import people
from minilib.bench.real_alignment.answers import answers_about
from minilib.bench.real_alignment.recipe import prompt_maker
from minilib.common import write_text
from minilib.data.running_text import token_counter
from minilib.evals.answers import contains
from minilib.evals.perplexity import perplexity_by_position
from minilib.longcontext.text_ids import render_question
from minilib.models.generation import make_answer_fn

GENERAL = Path(__file__).with_name("general.yaml")


def measured(
    model, tokenizer, seed: int, settings: dict[str, Any], path: Path, check: Callable[[], None]
) -> dict[str, Any]:
    """All parts by name, those of the file at `path` as they are; `check` is called between parts and may stop."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    parts: dict[str, Callable[[], Any]] = {}
    for length, texts in settings["texts"].items():
        for number in range(texts):
            parts[f"text {length} {number}"] = partial(_about, model, tokenizer, seed, int(length), number, settings)
    parts["general"] = lambda: _general(model, tokenizer)
    parts["perplexity"] = lambda: _perplexity(model, tokenizer, seed, settings)
    for name, part in parts.items():
        if name not in found:
            check()
            began = time.process_time()
            found[name] = {"found": part(), "cpu_seconds": round(time.process_time() - began, 1)}
            write_text(path, json.dumps(found) + "\n")
    return found


def _about(model, tokenizer, seed: int, length: int, number: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The verdicts on the answers about every person of one text, which no training sees."""
    texts = people.documents(length=length, seed=seed, measure=token_counter(tokenizer), part=1)
    text = next(islice(texts, number, None))
    rows = {name: people.asked(text, name) for name in text["people"]}
    make = prompt_maker(tokenizer)
    prompts = [make([text["context"]], row["question"]) for row in rows.values()]
    answers = answers_about(model, tokenizer, prompts, settings["answer_tokens"])
    found = []
    for (name, row), answer in zip(rows.items(), answers):
        places, values = {f["value"]: round(f["depth"], 3) for f in row["facts"] if f["asked"]}, row["values"]
        told = {"name": name, "answer": answer, "values": values, "depths": [places[value] for value in values]}
        found.append(told | people.judged(answer, values, name))
    return found


def _general(model, tokenizer) -> list[bool]:
    asked = yaml.safe_load(GENERAL.read_text(encoding="utf-8"))
    prompts: list[Any] = list(asked)
    if getattr(tokenizer, "chat_template", None):
        prompts = [render_question(tokenizer, [{"role": "user", "content": question}]) for question in asked]
    answers = make_answer_fn(model, tokenizer, max_new_tokens=16)(prompts)
    return [any(contains(answer, word) for word in words) for answer, words in zip(answers, asked.values())]


def _perplexity(model, tokenizer, seed: int, settings: dict[str, Any]) -> float:
    length = settings["perplexity_tokens"]
    samples = settings["perplexity_texts"]
    return perplexity_by_position(model, tokenizer, length=length, bucket=length, samples=samples, seed=seed)[0]
