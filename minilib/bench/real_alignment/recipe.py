"""LOGO's pairs about invented people, answered by the model that is to be aligned, and the question as a prompt.

    chosen     from the chunks with facts of the asked person; kept only if all facts are right, and no other is named
    rejected   from mixed and irrelevant chunks; kept only if something is wrong or lacking
    prompt     a chat with one example, so that the model knows what a whole answer looks like, then chunks and question

Answers are greedy (the released code draws at temperature 0.7, at which so small a model is wrong too often): after an
interruption the same pairs come out. Made once, line by line, and stored with the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from minilib.bench.real_alignment import people
from minilib.longcontext.text_ids import render_question
from minilib.preferences import build_pairs
from minilib.preferences.importance import exact_entities

ASIDE = "The function returns an empty list."
ANSWER = 40  # tokens of an answer


def prompt_maker(tokenizer) -> Callable[[list[str], str], str]:
    """A function from chunks and question to the prompt of training, answering and measuring."""
    if not getattr(tokenizer, "chat_template", None):
        return lambda chunks, question: f"{''.join(chunks).strip()}\n\n{question}\n"

    def prompt(chunks: list[str], question: str) -> str:
        kinds = [kind for kind, ask in people.ASKS.items() if ask.split(" {}")[0] in question]
        asked = {"role": "user", "content": f"{''.join(chunks).strip()}\n\n{question}"}
        return render_question(tokenizer, [*_example(kinds), asked])

    return prompt


def _example(kinds: list[str]) -> list[dict[str, str]]:
    """A short text about two people, a question about one of them that asks for the same kinds, and its answer."""
    (name, mine), (other, theirs) = people.EXAMPLE.items()
    told = [people.TELLS[kind].format(name, mine[kind]) for kind in kinds]
    aside = [people.TELLS[kind].format(other, theirs[kind]) for kind in kinds]
    text = " ".join([aside[0], told[0], ASIDE, *told[1:2], *aside[1:], *told[2:]])
    return [
        {"role": "user", "content": f"{text}\n\n{people.question(name, kinds)}"},
        {"role": "assistant", "content": people.sentence(name, {kind: mine[kind] for kind in kinds})},
    ]


def rows(settings: dict[str, Any], measure: Callable[[str], int]) -> Iterator[dict[str, Any]]:
    """One question about each text of the training, as many as may be asked."""
    texts = people.documents(length=settings["length"], seed=settings["text_seed"], measure=measure)
    for number, text in zip(range(settings["rows"]), texts):
        yield people.asked(text, list(text["people"])[number % people.PEOPLE])


def pairs(answer: Callable[[list[str]], list[str]], tokenizer, settings: dict[str, Any], path: Path):
    """The pairs, made as they are iterated over, those of `path` first."""
    from minilib.data.running_text import token_counter

    return build_pairs(
        list(rows(settings, token_counter(tokenizer))), answer, scorer=exact_entities, tokenizer=tokenizer,
        prompt_fn=prompt_maker(tokenizer), is_right=people.all_right, path=path, progress=True, rule="paper",
        chunk_size=settings["chunk"], num_chunks=settings["chunks"], threshold=0, num_rejected=2, require_right=True,
        tries=4, seed=settings["text_seed"], batch_size=settings["asked_at_once"],
        separator="" if getattr(tokenizer, "chat_template", None) else None,
    )  # fmt: skip
