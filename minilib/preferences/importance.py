"""How much a chunk matters to a question: plain functions of (chunk, question, row) that return a number.

    exact_entities    |E & words(chunk)|, E: names and values of the facts that the question asks about
    rare_words        sum over w in q & chunk of log(T / n_w)
    spacy_entities    |E(chunk) & E(question)|, E: spaCy's named entities                        (LOGO's own scorer)

where
    q, n_w, T         words of the question but function words; how often w stands in the context, of T words in all

exact_entities needs rows with `facts`. rare_words needs nothing, counts in nats (a word that stands once in 404 words
is worth 6) and is ours; in a script without blanks between words, two neighbouring signs are a word. A threshold
belongs to its scorer: the paper's 6 is meant for entities of a long question. Any other function will do as well.
Taught in notebooks/11_make_chosen_and_rejected_answers.ipynb.
"""

import math
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from unicodedata import normalize

import regex

from minilib.evals.answers import SIGNS

_LISTED = """
a about after all an and any are as at be because been before both but by can could did do does done for from
had has have he her him his how i if in into is it its many may me more most much my no not of on or our she
should so some such than that the their them then there these they this those through to under was we were
what when where which while who whom whose why will with would you your
"""
FUNCTION_WORDS = frozenset(_LISTED.split())
SIGN = regex.compile(rf"[{SIGNS}]\p{{M}}*")
RUN = regex.compile(rf"(?:[{SIGNS}]\p{{M}}*)+|[[\w\p{{M}}]--[{SIGNS}]]+", regex.VERSION1)


def exact_entities(chunk: str, question: str, row: dict) -> int:
    """How many names and values of the asked facts stand in the chunk; a fact is asked if the question has its name."""
    if "facts" not in row:
        raise ValueError("exact_entities needs rows with 'facts', got one without: use rare_words for such rows.")
    asked = [fact for fact in row["facts"] if _holds(question, fact["name"])]
    entities = {fact["name"] for fact in asked} | {fact["value"] for fact in asked}
    return sum(_holds(chunk, entity) for entity in entities)


def rare_words(chunk: str, question: str, row: dict) -> float:
    """The words that the chunk shares with the question, each worth the more, the rarer it is in the whole context."""
    counts, total = _word_counts(row["context"])
    shared = ({*_words(question)} - FUNCTION_WORDS) & {*_words(chunk)}
    # fsum, because the order of a set differs from process to process, and a plain sum with it in its last digit.
    return math.fsum(math.log(total / counts[word]) for word in shared if counts[word])


def spacy_entities(nlp="en_core_web_lg", *, lemmas: bool = False, with_answer: bool = False) -> Callable:
    """Make a scorer that counts the named entities which the chunk shares with the question.

    nlp: a loaded spaCy pipeline, or the name of an installed one. lemmas: lemmas of nouns and verbs count as well.
    with_answer: what the right answer shares with the chunk counts as well. Both are the released code's choice.
    """
    nlp = _load_spacy(nlp) if isinstance(nlp, str) else nlp

    @lru_cache(maxsize=64)  # the question comes again with each of its chunks
    def keys(text: str) -> frozenset[str]:
        parsed = nlp(text)
        found = {entity.text.lower() for entity in parsed.ents}
        if lemmas:
            found |= {token.lemma_.lower() for token in parsed if token.pos_ in ("NOUN", "VERB")}
        return frozenset(found)

    def score(chunk: str, question: str, row: dict) -> int:
        wanted = keys(question)
        if with_answer:
            golds = [row["answer"]] if isinstance(row["answer"], str) else row["answer"]
            wanted = wanted.union(*map(keys, golds))
        return len(wanted & keys(chunk))

    score.__qualname__ = f"spacy_entities(lemmas={lemmas}, with_answer={with_answer})"
    return score


def _load_spacy(name: str):
    try:
        import spacy

        return spacy.load(name)
    except (ImportError, OSError) as error:
        what = "spaCy" if isinstance(error, ImportError) else f"its model {name!r}"
        raise ValueError(
            f"spacy_entities needs {what}, which is not installed: install it, or use rare_words, which needs neither."
        ) from error


def _holds(text: str, entity: str) -> bool:
    """Whether the entity stands in the text as whole words, written alike."""
    text, entity = normalize("NFKC", text), normalize("NFKC", entity)
    before, behind = (
        rf"[[\w\p{{M}}]--[{SIGNS}]]" if _is_letter(end) else r"[\p{M}]" for end in (entity[0], entity[-1])
    )
    return regex.search(rf"(?<!{before}){regex.escape(entity)}(?!{behind})", text, regex.VERSION1) is not None


def _is_letter(sign: str) -> bool:
    return regex.match(rf"[{SIGNS}]", sign) is None


def _words(text: str) -> list[str]:
    """Words in lower case; of signs without blanks every two neighbours, or one that stands alone."""
    found = []
    for run in RUN.findall(normalize("NFKC", text).lower()):
        signs = SIGN.findall(run)
        found += [a + b for a, b in pairwise(signs)] or signs or [run]
    return found


@lru_cache(maxsize=2)  # the context comes again with each of its chunks
def _word_counts(context: str) -> tuple[Counter, int]:
    words = _words(context)
    return Counter(words), len(words)
