"""Long documents of real English with small facts hidden at known places, and questions about them.

    depth = t / (T - n)

where
    T      tokens of the context, counted by the tokenizer that you pass (words and punctuation marks without one)
    n, t   tokens of a fact's sentence, and the index of its first one: 0 is the very beginning, 1 the very end

No name and no value of a fact occurs in the prose around it, so a found word is a found fact. LOGO (arXiv 2410.18533)
must guess which chunks of a book matter; here every fact says. Taught in
notebooks/08_see_long_context_models_fail.ipynb.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import accumulate, count, islice
from random import Random
from typing import TYPE_CHECKING

from minilib.data.facts import KINDS, NUMBERS, VALUES, draw_facts, fact_chunks, questions, words_of
from minilib.data.rows import positive_int
from minilib.data.running_text import running_text, token_counter

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


def haystack(
    *,
    length: int = 224,
    kind: str = "single",
    depth: float | Sequence[float] | None = None,
    values: int = 2,
    distractors: int = 3,
    seed: int = 0,
    tokenizer: Callable | None = None,
    chunk_size: int | None = None,
    start: int = 0,
) -> Iterator[dict]:
    """An endless stream of rows `{context, question, answer, kind, tokens, facts}`, beginning with row `start`.

    length: the most tokens that the context may have; as many whole sentences as fit will fill it.
    kind: one of KINDS. depth: where the asked facts lie, 0 to 1: one number for all, one for each, or None for
    anywhere. values: how many things a name keeps, 2 to 4 ("count" draws 1 to `values`; "single" has always one).
    distractors: facts about other names. tokenizer: a tokenizer of transformers, or a callable from text to a list of
    tokens; a sentence must cost the same wherever it stands. chunk_size: facts then know their `chunks` as well.
    A fact is `{name, value, text, asked, depth, start, end, token_start, token_end}`; context[start:end] is its text.
    """
    _check(length, kind, values, distractors, seed, start)
    if chunk_size is not None:
        positive_int(chunk_size, "chunk_size")
    measure = token_counter(tokenizer)

    def rows() -> Iterator[dict]:
        for k in count(start):
            rng = Random(f"{seed}/{k}")  # row k depends on nothing else, so a stream can be stopped and resumed
            asked, pairs = draw_facts(rng, kind, values, distractors)
            row = hide_facts(rng, pairs, asked=asked, length=length, depth=depth, measure=measure)
            settled = questions(row["facts"])
            _, question, answer = next(q for q in settled if q[0] == kind and asked <= words_of(q[1]))
            for fact in row["facts"] if chunk_size else ():
                fact["chunks"] = fact_chunks(fact, chunk_size)
            yield {"context": row["context"], "question": question, "answer": answer, "kind": kind} | row

    return rows()


def haystack_dataset(rows: int, *, streaming: bool = False, **settings) -> Dataset | IterableDataset:
    """The next `rows` rows of `haystack`, with its arguments as `settings`, as a `datasets.Dataset`.

    streaming: they are made as they are read.
    """
    from datasets import Dataset, IterableDataset

    rows = positive_int(rows, "rows")
    haystack(**settings)  # raises now what a stream would raise at its first row
    if streaming:
        return IterableDataset.from_generator(_first_rows, gen_kwargs={"rows": rows, "settings": settings})
    return Dataset.from_list(list(_first_rows(rows, settings)))


def _first_rows(rows: int, settings: dict) -> Iterator[dict]:
    yield from islice(haystack(**settings), rows)


def hide_facts(
    rng: Random,
    pairs: Sequence[tuple[str, str]],
    *,
    asked: Collection[str] = (),
    length: int,
    depth: float | Sequence[float] | None = None,
    measure: Callable[[str], int],
) -> dict:
    """Write `pairs` (name, value) into prose of at most `length` tokens: `{context, tokens, facts}`, facts in order."""
    facts = [{"name": n, "value": v, "text": f"{n} keeps {v}.", "asked": n in asked} for n, v in pairs]
    depths = _depths(rng, facts, depth)
    room = length - sum(measure(fact["text"]) for fact in facts)
    if room < 0:
        raise ValueError(
            f"length must hold the {length - room} tokens of the facts, got {length}: ask for more, or hide fewer."
        )
    items = [(sentence, None) for sentence in running_text(rng, room, measure)]
    # The asked facts go in last, so that no later sentence moves them from the depth that was wished for.
    for fact, wish in sorted(zip(facts, depths), key=lambda pair: pair[0]["asked"]):
        starts = [0, *accumulate(measure(text) for text, _ in items)]
        gap = min(range(len(starts)), key=lambda i: abs(starts[i] - wish * starts[-1]))
        items.insert(gap, (fact["text"], fact))
    return _write(items, measure)


def _depths(rng: Random, facts: list[dict], depth: float | Sequence[float] | None) -> list[float]:
    asked = [k for k, fact in enumerate(facts) if fact["asked"]]
    wished = [rng.random() for _ in facts]
    if depth is not None:
        given = [depth] * len(asked) if isinstance(depth, (int, float)) else list(depth)
        if len(given) != len(asked) or not all(0 <= d <= 1 for d in given):
            raise ValueError(
                f"depth must be one number from 0 to 1, or one for each of the {len(asked)} asked facts, got "
                f"{depth!r}: 0 is the beginning and 1 the end."
            )
        for k, d in zip(asked, given):
            wished[k] = d
    return wished


def _write(items: list[tuple[str, dict | None]], measure: Callable[[str], int]) -> dict:
    """Join the sentences by blanks and note where every fact begins and ends, in characters and in tokens."""
    char, token, facts = 0, 0, []
    total = sum(measure(text) for text, _ in items)
    for text, fact in items:
        cost = measure(text)
        if fact is not None:
            fact |= {"depth": token / max(total - cost, 1), "start": char, "end": char + len(text)}
            fact |= {"token_start": token, "token_end": token + cost}
            facts.append(fact)
        char, token = char + len(text) + 1, token + cost
    return {"context": " ".join(text for text, _ in items), "tokens": total, "facts": facts}


def _check(length: int, kind: str, values: int, distractors: int, seed: int, start: int) -> None:
    positive_int(length, "length")
    positive_int(seed, "seed", least=0)
    positive_int(start, "start", least=0)
    positive_int(distractors, "distractors", least=0)
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is unknown: choose one of {', '.join(map(repr, KINDS))}.")
    if not 2 <= positive_int(values, "values") < len(NUMBERS):
        raise ValueError(f"values must be 2 to {len(NUMBERS) - 1}, got {values}: the answers count no further.")
    if distractors > (most := len(VALUES) - 2 * values):
        raise ValueError(f"distractors must be at most {most} with values={values}, got {distractors}: pass fewer.")
