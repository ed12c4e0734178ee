"""What a real model answers by itself, before any alignment: `python -m minilib bench answers`.

One text of each length, four invented people hidden in it (`people`), one question about each. Texts, questions and
answers are kept with their verdicts, as lesson 08 shows them; the texts themselves are made anew from the seed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from minilib.bench.real_alignment import people
from minilib.bench.real_alignment.answers import answers_about
from minilib.bench.real_alignment.recipe import prompt_maker
from minilib.common import write_text
from minilib.data.running_text import token_counter
from minilib.models.loading import load_language_model
from minilib.teaching.repro import quiet

KEPT = Path(__file__).parents[3] / "book" / "results" / "own_answers.json"


def bench_answers(
    model: str = "smollm2", lengths: tuple[int, ...] = (1_000, 2_000, 4_000, 7_000, 10_000), seed: int = 3,
    output: Path = Path("runs/bench/own_answers.json"),
) -> dict[str, Any]:  # fmt: skip
    """Ask a real model about people in long texts and keep what it says; four minutes for SmolLM2.

    Args:
        model: name or folder of a model that answers in chats.
        lengths: tokens of the texts, one text of each.
        seed: of the texts and the people in them.
        output: JSON file to write.
    """
    found: dict[str, Any] = {"benchmark": "answers", "model": model, "seed": seed, "texts": []}
    with quiet():
        loaded = load_language_model(model)
        for length in lengths:
            found["texts"] += own_answers(loaded.model, loaded.tokenizer, (length,), seed)
            write_text(output, json.dumps(found, indent=1) + "\n")  # a long text takes minutes, and may be the last
    print(table(found["texts"]))
    return found


def own_answers(model, tokenizer, lengths: tuple[int, ...], seed: int) -> list[dict[str, Any]]:
    """For each length, the questions about the four people of one text, with the answers and what is right in them."""
    measure, make, found = token_counter(tokenizer), prompt_maker(tokenizer), []
    for length in lengths:
        text = next(people.documents(length=length, seed=seed, measure=measure, part=1, kinds=2))
        rows = [people.asked(text, name) for name in text["people"]]
        prompts = [make([text["context"]], row["question"]) for row in rows]
        answers = answers_about(model, tokenizer, prompts, max_new_tokens=32)
        asked = [{"question": r["question"], "right": r["answer"], "answer": a} for r, a in zip(rows, answers)]
        judged = [{"judged": people.judged(a, r["values"], name)} for name, r, a in zip(text["people"], rows, answers)]
        found.append({"tokens": text["tokens"], "told": text["facts"], "asked": [a | j for a, j in zip(asked, judged)]})
    return found


def table(texts: list[dict[str, Any]]) -> str:
    """A line for each text: how many facts are right, how many answers are whole, how many name a wrong value."""
    lines = ["tokens  facts right  answers right in full  answers with a wrong value"]
    for text in texts:
        verdicts = [asked["judged"] for asked in text["asked"]]
        right = [mark for verdict in verdicts for mark in verdict["right"]]
        whole = sum(map(people.is_whole, verdicts))
        wrong, people_in = sum(bool(v["wrong"]) for v in verdicts), len(verdicts)
        facts = f"{sum(right)} of {len(right)}"
        lines.append(f"{text['tokens']:6,}{facts:>13}{f'{whole} of {people_in}':>23}{f'{wrong} of {people_in}':>28}")
    return "\n".join(lines)
