"""Small facts such as "Lisbon keeps amber.", and every question that a handful of them settles.

    single   What does Lisbon keep?               amber                one fact, one detail
    multi    Which things does Lisbon keep?       amber and silk       every value of one name, in the text's order
    count    How many things does Lisbon keep?    two                  aggregation: a number that stands nowhere
    shared   What do Lisbon and Oslo both keep?   amber                aggregation: what two lists have in common

Within one document two names share a value only where a question needs it. The kinds follow LOGO's data and needle test
(arXiv 2410.18533), with `count` in place of its summary. Taught in notebooks/08_see_long_context_models_fail.ipynb.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from random import Random

from minilib.data.rows import positive_int

KINDS = ("single", "multi", "count", "shared")
# One string each, split below: sixty-four quoted words would hide the words behind the quotes.
_NAMES = """
    Lisbon Oslo Cairo Lima Quito Hanoi Delhi Tokyo Seoul Paris Berlin Vienna Prague Warsaw Athens Madrid Dublin
    Geneva Naples Venice Turin Milan Bergen Malmo Tunis Dakar Accra Lagos Nairobi Kampala Harare Maputo Luanda
    Havana Bogota Caracas Santiago Boston Denver Austin Dallas Miami Chicago Seattle Toronto Montreal Quebec Sydney
    Perth Auckland Manila Jakarta Bangkok Kyoto Osaka Riga Tallinn Vilnius Minsk Sofia Zagreb Tirana Ankara Beirut
"""
_VALUES = """
    amber copper silk salt honey tea coffee cotton paper ivory marble silver gold iron bronze glass wool linen
    leather timber cork wheat barley rice maize sugar pepper ginger saffron vanilla cocoa olives figs dates lemons
    oranges apples grapes wine cheese butter fish pearls coral jade ruby opal onyx quartz slate clay brick granite
    coal tar wax soap ink rope candles clocks bells drums flutes
"""
NAMES, VALUES = tuple(_NAMES.split()), tuple(_VALUES.split())
NUMBERS = ("no", "one", "two", "three", "four")  # as far as the answers can count


def draw_facts(rng: Random, kind: str, values: int, distractors: int) -> tuple[set[str], list[tuple[str, str]]]:
    """The names that a question of this kind asks about, and pairs (name, value): theirs first, then the others'."""
    names = rng.sample(NAMES, distractors + 2)
    things = rng.sample(VALUES, 2 * values + distractors)
    held = {"single": 1, "count": rng.randint(1, values)}.get(kind, values)
    mine = [(names[0], thing) for thing in things[:held]]
    if kind == "shared":  # the second name keeps other things, and one of the first's
        mine += [(names[1], thing) for thing in [rng.choice(things[:held]), *things[held : 2 * held - 1]]]
    others = zip(names[2:], things[2 * values :])
    return set(names[: 2 if kind == "shared" else 1]), [*mine, *others]


def questions(facts: Sequence[dict]) -> list[tuple[str, str, str]]:
    """Every question (kind, question, answer) that these facts, given in the text's order, settle."""
    kept: dict[str, list[str]] = {}
    for fact in facts:
        kept.setdefault(fact["name"], []).append(fact["value"])
    found = []
    for name, things in kept.items():
        if len(things) == 1:
            found.append(("single", f"What does {name} keep?", things[0]))
        else:
            found.append(("multi", f"Which things does {name} keep?", " and ".join(things)))
        if len(things) < len(NUMBERS):
            found.append(("count", f"How many things does {name} keep?", NUMBERS[len(things)]))
    for one, other in combinations(kept, 2):
        if len(common := set(kept[one]) & set(kept[other])) == 1:
            found.append(("shared", f"What do {one} and {other} both keep?", common.pop()))
    return found


def fact_chunks(fact: dict, chunk_size: int) -> list[int]:
    """The chunks of `chunk_size` tokens that hold a piece of the fact: one as a rule, two when it lies across a cut."""
    size = positive_int(chunk_size, "chunk_size")
    return list(range(fact["token_start"] // size, (fact["token_end"] - 1) // size + 1))


def as_prompt(context: str, question: str) -> str:
    """The text that a model is asked to continue with the answer; `tiny_lm` was trained on this very form."""
    return f"{context} Question: {question} Answer:"


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z]+", text))
