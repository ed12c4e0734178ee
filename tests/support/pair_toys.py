"""A tiny haystack with facts at known places, and a reader that answers by what a prompt says, with a record."""

import random
import re
from collections.abc import Iterator
from dataclasses import fields

from minilib.preferences.build import PairsConfig, build_pairs
from minilib.preferences.importance import exact_entities

TEXT = "the quick brown fox and a lazy dog run by some old stone wall near that long cold river of grey sand"
NAMES = ["Lisbon", "Oslo", "Cairo", "Lima", "Quito", "Hanoi"]
THINGS = ["amber", "copper", "silk", "salt", "honey", "tea"]


def toy_rows(count: int, *, words: int = 160, facts: int = 4, kept: int = 1, seed: int = 0) -> list[dict]:
    """Rows whose question asks for the `kept` things of one name; other facts are about other names."""
    return [_row(random.Random(f"{seed}/{k}"), words, facts, kept) for k in range(count)]


def _row(rng: random.Random, words: int, facts: int, kept: int) -> dict:
    names, things = rng.sample(NAMES, facts), rng.sample(THINGS, facts)
    told = [(names[0] if k < kept else names[k], things[k]) for k in range(facts)]
    text = [rng.choice(TEXT.split()) for _ in range(words)]
    for name, thing in told:
        text.insert(rng.randrange(len(text)), f"{name} keeps {thing}.")
    context = " ".join(text)
    found = [
        {
            "name": n,
            "value": v,
            "start": (start := context.index(f"{n} keeps {v}.")),
            "end": start + len(f"{n} keeps {v}."),
        }
        for n, v in told
    ]
    found.sort(key=lambda fact: fact["start"])
    answer = " and ".join(fact["value"] for fact in found if fact["name"] == names[0])
    return {"context": context, "question": f"What does {names[0]} keep?", "answer": answer, "facts": found}


class Reader:
    """Says every thing that the prompt's name keeps; else the first thing it sees, else how long the prompt is.

    So it is right when it sees the place, and its wrong answers are of few kinds: they repeat. `prompts` and `answers`
    hold all that was asked and said.
    """

    def __init__(self, stop_at: int | None = None):
        self.prompts, self.answers, self.calls, self.stop_at = [], [], 0, stop_at

    def __call__(self, prompts: list[str]) -> list[str]:
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        said = [self.answer(prompt) for prompt in prompts]
        self.prompts += prompts
        self.answers += said
        return said

    @staticmethod
    def answer(prompt: str) -> str:
        name = re.search(r"What does (\w+) keep", prompt)[1]
        found = re.findall(rf"{name} keeps (\w+)", prompt) or re.findall(r"keeps (\w+)", prompt)[:1]
        return " and ".join(found) or f"perhaps {len(prompt)} pearls"


def places(chunks: list[str]) -> Iterator[tuple[int, int]]:
    """First and last character + 1 of every chunk in the text that they were cut from."""
    at = 0
    for chunk in chunks:
        yield at, at + len(chunk)
        at += len(chunk)


def build(rows, reader=None, **settings):
    """Pairs of toy rows: chunks of 16 words, 4 at a time, and a fact makes a chunk critical."""
    toy = {"scorer": exact_entities, "threshold": 0, "chunk_size": 16, "num_chunks": 4, "progress": False}
    return build_by_keywords(rows, reader or Reader(), **toy | settings)


def build_by_keywords(rows, answer_fn, **settings):
    """`build_pairs` with the fields of its config among the other keywords."""
    numbers = {field.name: settings.pop(field.name) for field in fields(PairsConfig) if field.name in settings}
    return build_pairs(rows, answer_fn, PairsConfig(**numbers), **settings)
