"""What `tiny_lm` learns from: documents with several questions behind them, and hints at where to look.

    [context: prose and facts] [Question: ... Answer: amber <eos>] [Question: ... Answer: two <eos>] ... <pad>

Only the tokens of the answers, <eos> included, carry the full loss. A hint is a pair of places (q, p): the token at q
does well to attend to the token at p. There are two sorts, one for each step of a look-up:

    name     in the fact "Lisbon keeps amber." the value q looks back at its name p, and in a question the colon q
             behind "Answer" looks back at the name p that is asked for
    value    that colon q looks at the value p; in "amber and silk" the word "and" looks at the next value

Documents are never longer than a stage of the curriculum allows, so no distance beyond the window is ever seen.

Taught in notebooks/08_see_long_context_models_fail.ipynb.
"""

from __future__ import annotations

from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from minilib.data.facts import NAMES, VALUES, as_prompt, questions
from minilib.data.haystack import hide_facts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHARES = {"single": 4.0, "multi": 2.0, "count": 1.0, "shared": 1.0}  # how likely one question of a kind is asked
QUESTION = 12  # tokens of a question and its answer, about: so much room the context leaves for each


class Stage(NamedTuple):
    """One part of the curriculum: steps, documents in a step, what they hold, and the weight of the hints."""

    steps: int
    batch: int
    length: int  # tokens of a document with its questions, at most
    names: tuple[int, int]  # fewest and most names that facts are about
    asked: tuple[int, int]  # fewest and most questions
    hints: float


class Batch(NamedTuple):
    """Documents as tensors; `name` and `value` hold the hints as rows (document, q, p)."""

    ids: Tensor  # (b, t), padded on the right
    answers: Tensor  # (b, t) bool
    name: Tensor  # (k, 3)
    value: Tensor  # (k, 3)


def make_batch(rng: Random, stage: Stage, tokenizer: PreTrainedTokenizerFast) -> Batch:
    """The next `stage.batch` documents."""
    ids = torch.full((stage.batch, stage.length), tokenizer.pad_token_id)
    answers, name, value = torch.zeros_like(ids, dtype=torch.bool), [], []
    for b in range(stage.batch):
        text, spans, names, values = make_document(rng, stage, tokenizer)
        ids[b, : len(text)] = torch.tensor(text)
        for first, last in spans:
            answers[b, first:last] = True
        name += [(b, *hint) for hint in names]
        value += [(b, *hint) for hint in values]
    return Batch(ids, answers, torch.tensor(name).view(-1, 3), torch.tensor(value).view(-1, 3))


def make_document(rng: Random, stage: Stage, tokenizer: PreTrainedTokenizerFast) -> tuple[list, list, list, list]:
    """One document: its token ids, the spans (first, last) of its answers, hints at names, hints at values."""
    encode = _encoder(tokenizer)
    pairs, asked = draw_pairs(rng, rng.randint(*stage.names)), rng.randint(*stage.asked)
    least = 4 * len(pairs)  # a fact is four tokens: name, keeps, value, full stop
    room = max(least, stage.length - QUESTION * asked)
    facts = hide_facts(rng, pairs, length=room, measure=lambda text: len(encode(text)))
    place = {(fact["name"], fact["value"]): fact["token_start"] for fact in facts["facts"]}
    ids, spans = tokenizer.encode(facts["context"]), []
    names, values, pool = [(at + 2, at) for at in place.values()], [], questions(facts["facts"])
    for kind, question, answer in rng.choices(pool, [SHARES[kind] for kind, *_ in pool], k=asked):
        prompt, reply = encode(as_prompt("", question).strip()), (*encode(answer), tokenizer.eos_token_id)
        begin = len(ids) + len(prompt)
        if begin + len(reply) > stage.length:
            break
        if kind in ("single", "multi"):
            subject = next(name for name, _ in place if name in question)
            names.append((begin - 1, len(ids) + prompt.index(encode(subject)[0])))
            values += [(begin - 1 + 2 * i, place[subject, v] + 2) for i, v in enumerate(answer.split(" and "))]
        ids += [*prompt, *reply]
        spans.append((begin, begin + len(reply)))
    return ids, spans, names, values


def draw_pairs(rng: Random, names: int) -> list[tuple[str, str]]:
    """Pairs (name, value): one for each name; every other time the first name has more, and may share one of them."""
    who, things = rng.sample(NAMES, names), rng.sample(VALUES, names + 2)
    pairs = list(zip(who, things))
    if rng.random() < 0.5:
        pairs += [(who[0], thing) for thing in things[names : names + rng.randint(1, 2)]]
        if rng.random() < 0.5:
            pairs.append((who[1], rng.choice([thing for name, thing in pairs if name == who[0]])))
    return pairs


@lru_cache(maxsize=4)
def _encoder(tokenizer: PreTrainedTokenizerFast):
    return lru_cache(maxsize=100_000)(lambda text: tuple(tokenizer.encode(text)))
