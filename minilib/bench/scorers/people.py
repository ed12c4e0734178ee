"""Long texts about four people, and questions that call people and things by other words than the text does.

    text          "... The physician keeps a goat. ... The physician plays the harp. ... The cook owns a taxi. ..."
    other words   Which creature and which instrument does the doctor have?
    same names    Which creature and which instrument does Tarel Vobim have?      (the text says Tarel Vobim, too)

The words stand in `words.yaml` in two parts: what an encoder is tuned on, and what it has never seen but for two words
of questions, "doctor" and "instrument". Around the facts is running text. A chunk is critical if it holds a piece of a
fact that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, count
from pathlib import Path
from random import Random
from typing import Any

import yaml

from minilib.bench.real_alignment import people
from minilib.bench.real_alignment.people import PEOPLE, invented_names, written
from minilib.data.running_text import running_text

WORDS = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text(encoding="utf-8"))
KINDS = WORDS["kinds"]
VALUES = [value for kind in KINDS.values() for part in kind["values"] for value in part]


def documents(
    *, length: int, seed: int, measure: Callable[[str], int], part: int, names: bool = False
) -> Iterator[list[dict[str, Any]]]:
    """An endless stream of texts, each as four rows `{context, question, answer, facts, values}`, a person each.

    part: whose words, 0 or 1. names: whether people have names, which text and question share.
    """
    for number in count():
        rng = Random(f"{seed}/{part}/{names}/{number}")
        kinds = rng.sample(list(KINDS), 2)
        calls = {name: name for name in invented_names(rng)} if names else _drawn_roles(rng, part)
        held = {kind: rng.sample(KINDS[kind]["values"][part], PEOPLE) for kind in kinds}
        told = [
            {"name": name, "value": held[kind][k], "text": tell(rng, kind, called(name, names), held[kind][k], part)}
            for k, name in enumerate(calls)
            for kind in kinds
        ]
        text = written(rng, told, length, measure)
        rows = []
        for k, (name, other) in enumerate(calls.items()):
            facts = [fact | {"asked": fact["name"] == name} for fact in text["facts"]]
            values = [held[kind][k] for kind in kinds]
            question = ask(rng, kinds, called(other, names), part)
            rows.append({"context": text["context"], "question": question, "facts": facts, "values": values})
            rows[-1]["answer"] = " and ".join(values)
        yield rows


def called(name: str, is_name: bool) -> str:
    """How a sentence calls somebody."""
    return name if is_name else f"the {name}"


def _drawn_roles(rng: Random, part: int) -> dict[str, str]:
    return dict(rng.sample(list(WORDS["roles"][part].items()), PEOPLE))


def tell(rng: Random, kind: str, who: str, what: str, part: int) -> str:
    """A fact as a sentence."""
    said = rng.choice(KINDS[kind]["tells"][part]).format(who=who, what=what)
    return said[0].upper() + said[1:]


def ask(rng: Random, kinds: Sequence[str], who: str, part: int) -> str:
    """A question about two kinds of things of one person."""
    a, b = (rng.choice(KINDS[kind]["asks"][part]) for kind in kinds)
    return rng.choice(WORDS["questions"][part]).format(a=a, b=b, who=who)


def training_pairs(number: int, words: int, seed: int) -> dict[str, list]:
    """Columns of so many pairs of the words of part 0: question, a text of at most so many words with one fact, groups.

    groups: (person, kinds asked for, kind of the fact): by them false negatives are counted.
    """
    found: dict[str, list] = {"image": [], "caption": [], "groups": []}
    for k in range(number):
        rng = Random(f"{seed}/{k}/pair")
        role, asked_as = rng.choice(list(WORDS["roles"][0].items()))
        kinds = rng.sample(list(KINDS), 2)
        fact = tell(rng, kinds[0], called(role, False), rng.choice(KINDS[kinds[0]]["values"][0]), 0)
        before, behind = (" ".join(running_text(rng, 40, lambda text: len(text.split()))).split() for _ in range(2))
        room = words - len(fact.split())
        left = rng.randint(0, room)
        found["caption"].append(" ".join([*before[len(before) - left :], fact, *behind[: room - left]]))
        found["image"].append(ask(rng, rng.sample(kinds, 2), called(asked_as, False), 0))
        found["groups"].append((role, frozenset(kinds), kinds[0]))
    return found


def critical(row: dict[str, Any], chunks: Sequence[str]) -> list[bool]:
    """Of every chunk, whether it holds a piece of a fact that is asked for; joined, the chunks are the context."""
    asked = [fact["text"] for fact in row["facts"] if fact["asked"]]
    spans = [(row["context"].index(text), row["context"].index(text) + len(text)) for text in asked]
    ends = list(accumulate(map(len, chunks)))
    return [any(a < end and b > end - len(chunk) for a, b in spans) for chunk, end in zip(chunks, ends)]


judged = partial(people.judged, among=VALUES)


def all_right(answer: str, values: Sequence[str]) -> bool:
    """Whether the answer has all values and no other."""
    return people.is_whole(judged(answer, values))
