"""Long texts of real English in which four invented people have two or three facts each, and answers judged by rule.

    text       "... Tarel Vobim works as a baker. ... Tarel Vobim lives in Oslo. ... Tarel Vobim has a goat. ..."
    question   In one sentence, what does Tarel Vobim work as, where does Tarel Vobim live, and which animal ...?
    right      every value of the asked person stands in the answer, told of that person, and no other known value
    told of    the name that stands last before a value; one of which no word is the asked person's is somebody else's

The sentences around are running text (`minilib.data.running_text`), in which no value occurs; names are made of
syllables, so nothing is known by heart. Training and evaluation draw from two halves of the values: what is learned is
to look them up. All facts of a person lie apart, each at its own depth.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from random import Random
from typing import Any

from minilib.data.facts import NAMES
from minilib.data.running_text import running_text
from minilib.evals.answers import contains

ONSETS = ["Br", "D", "F", "Gr", "H", "K", "L", "M", "N", "P", "R", "S", "T", "V", "Z"]
VOWELS, MIDDLES, ENDS = "aeiou", "bdlmnrstvz", "nlrskm"
_JOBS = """
    baker teacher nurse farmer pilot tailor doctor painter lawyer singer miner dentist gardener librarian plumber
    carpenter fisherman sailor butcher barber judge actor chemist dancer
"""
_ANIMALS = "dog cat horse rabbit goat turtle duck pony parrot hamster donkey sheep pigeon cow goose canary"
VALUES = {"job": tuple(_JOBS.split()), "city": NAMES[:40], "animal": tuple(_ANIMALS.split())}
ALL_VALUES = [value for kind in VALUES.values() for value in kind]
TELLS = {"job": "{} works as a {}.", "city": "{} lives in {}.", "animal": "{} has a {}."}
ASKS = {"job": "what does {} work as", "city": "where does {} live", "animal": "which animal does {} have"}
SAYS = {"job": "works as a {}", "city": "lives in {}", "animal": "has a {}"}
PEOPLE = 4
# The worked example of every prompt: its values are in no text, and some answers take them from there.
EXAMPLE = {
    "Orlen Fask": {"job": "cook", "city": "Genoa", "animal": "pig"},
    "Ulma Wick": {"job": "clerk", "city": "Bruges", "animal": "mouse"},
}
KNOWN = [*ALL_VALUES, *(value for facts in EXAMPLE.values() for value in facts.values())]
_WORD = rf"(?:{'|'.join(ONSETS)})[{VOWELS}][{MIDDLES}][{VOWELS}][{ENDS}]"  # of an invented name, also a misspelt one
A_NAME = re.compile(rf"\b({_WORD} {_WORD}|{'|'.join(EXAMPLE)})\b")


def documents(
    *, length: int, seed: int, measure: Callable[[str], int], part: int = 0, kinds: int | None = None
) -> Iterator[dict[str, Any]]:
    """An endless stream of texts `{context, facts, people}`; people are {kind of fact: value} by name.

    length: the most tokens of a text. part: which half of the values, 0 or 1. kinds: facts of a person, by default two
    in every other text and three in the others.
    """
    for number in count():
        rng = Random(f"{seed}/{part}/{number}/{length}")
        held = list(VALUES)[: kinds or 2 + number % 2]
        drawn = {kind: rng.sample(VALUES[kind][part::2], PEOPLE) for kind in held}
        people = {name: {kind: drawn[kind][k] for kind in held} for k, name in enumerate(invented_names(rng))}
        yield {"people": people} | written(rng, _facts(people), length, measure)


def asked(document: dict[str, Any], name: str) -> dict[str, Any]:
    """The row about one person of a text, as `build_pairs` takes it; its answer is the sentence with all facts."""
    mine = document["people"][name]
    row = {"context": document["context"], "question": question(name, list(mine)), "answer": sentence(name, mine)}
    facts = [fact | {"asked": fact["name"] == name} for fact in document["facts"]]
    return row | {"facts": facts, "values": list(mine.values())}


def question(name: str, kinds: list[str]) -> str:
    """One sentence is wanted, with all facts of these kinds."""
    asks = [ASKS[kind].format(name) for kind in kinds]
    return f"In one sentence, {', '.join(asks[:-1])}{',' * (len(asks) > 2)} and {asks[-1]}?"


def sentence(name: str, facts: dict[str, str]) -> str:
    """The whole answer, as we would write it."""
    says = [SAYS[kind].format(value) for kind, value in facts.items()]
    return f"{name} {', '.join(says[:-1])}{',' * (len(says) > 2)} and {says[-1]}."


def judged(answer: str, values: Sequence[str], name: str | None = None, among: Sequence[str] = KNOWN) -> dict[str, Any]:
    """Of each value whether the answer tells it of `name` (None: at all), the other values, whether it is a sentence.

    A value that is in no list, such as a city that stands neither in the text nor in the example, is not seen.
    """
    mine, others = _told_of(answer, name)
    right = [contains(mine, value) for value in values]
    told = {value for value, held in zip(values, right) if held}
    one_sentence = re.fullmatch(r"[A-Z][^.!?\n]*[.!]", answer.strip()) is not None
    return {
        "right": right,
        "wrong": [value for value in sorted({*among} - told) if contains(mine, value) or contains(others, value)],
        "sentence": one_sentence and len(answer.split()) > 3,
    }


def _told_of(answer: str, name: str | None) -> tuple[str, str]:
    """What an answer tells of the person of this name, and what of others."""
    if name is None:
        return answer, ""
    first, *rest = A_NAME.split(answer)  # text, name, text, name, text ...
    mine, others = [first], []
    for who, text in zip(rest[::2], rest[1::2]):
        (mine if {*who.split()} & {*name.split()} else others).append(text)
    return "\n".join(mine), "\n".join(others)


def all_right(answer: str, row: dict[str, Any]) -> bool:
    """Whether all facts that were asked for are in the answer, told of the asked person, and no wrong one."""
    (name,) = {fact["name"] for fact in row["facts"] if fact["asked"]}
    return is_whole(judged(answer, row["values"], name))


def is_whole(verdict: dict[str, Any]) -> bool:
    """Whether an answer that is judged has every value and no wrong one."""
    return all(verdict["right"]) and not verdict["wrong"]


def invented_names(rng: Random) -> list[str]:
    """As many names as there are people, no two of which share a word."""
    words: list[str] = []
    while len(words) < 2 * PEOPLE:
        word = rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(MIDDLES) + rng.choice(VOWELS) + rng.choice(ENDS)
        if word not in words and word not in NAMES:
            words.append(word)
    return [f"{first} {last}" for first, last in zip(words[::2], words[1::2])]


def _facts(people: dict[str, dict[str, str]]) -> list[dict[str, str]]:
    return [
        {"name": name, "value": value, "text": TELLS[kind].format(name, value)}
        for name, mine in people.items()
        for kind, value in mine.items()
    ]


def written(rng: Random, facts: list[dict], length: int, measure: Callable[[str], int]) -> dict[str, Any]:
    """Running text with these facts, each hidden at a place of its own, and their depths."""
    room = length - sum(measure(fact["text"]) for fact in facts)
    if room < 0:
        raise ValueError(f"length must hold the {length - room} tokens of the facts, got {length}: ask for more.")
    items: list[tuple[str, dict | None]] = [(text, None) for text in running_text(rng, room, measure)]
    for fact in facts:
        items.insert(rng.randrange(len(items) + 1), (fact["text"], fact))
    total, at, placed = sum(measure(text) for text, _ in items), 0, []
    for text, fact in items:
        if fact is not None:
            placed.append(fact | {"depth": at / max(total - measure(text), 1)})
        at += measure(text)
    return {"context": " ".join(text for text, _ in items), "facts": placed, "tokens": total}
