"""Running English that is the same on every machine: the prose of Python's help topics, sentence by sentence.

    text = sentence_i, sentence_i+1, ...        from a random i on, as long as it fits

The topics are those of Python 3.11.7, stored in `text/` with their source and licence. Of them we keep whole sentences
of 6 to 30 words, without tables, grammar and code, and without any word that a needle uses (`facts.py`). The paper
(LOGO, arXiv 2410.18533) takes books and papers; these 22,000 words need no download.
Taught in notebooks/08_see_long_context_models_fail.ipynb.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from random import Random

from minilib.data.facts import NAMES, VALUES, words_of

REMEMBERED = 1_000  # characters of the longest text whose count is remembered
HELP_TOPICS = Path(__file__).parent / "text" / "python_help_topics.txt.gz"


def help_topics() -> str:
    """The text of all help topics of Python 3.11.7, paragraphs apart by empty lines."""
    return gzip.decompress(HELP_TOPICS.read_bytes()).decode()


@lru_cache(maxsize=1)
def prose_sentences() -> tuple[str, ...]:
    """Every sentence of plain prose in the help topics, 6 to 30 words, free of our names and values."""
    found, needles = [], {word.lower() for word in NAMES + VALUES}
    for paragraph in re.split(r"\n\s*\n", help_topics()):
        for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", " ".join(paragraph.split())):
            plain = re.fullmatch(r"[A-Z][A-Za-z0-9 ,;:'\"()_.-]*[.]", sentence) and ":: " not in sentence
            if plain and 6 <= len(sentence.split()) <= 30 and not needles & words_of(sentence.lower()):
                found.append(sentence)
    return tuple(found)


def running_text(rng: Random, room: int, measure: Callable[[str], int]) -> list[str]:
    """Sentences as they run from a random one on; those that no longer fit are passed over, eight at most."""
    text, passed, at = [], 0, rng.randrange(len(prose_sentences()))
    while passed < 8:
        sentence = prose_sentences()[at % len(prose_sentences())]
        at += 1
        if (cost := measure(sentence)) <= room:
            text.append(sentence)
            room -= cost
        else:
            passed += 1
    return text


def token_counter(tokenizer: Callable | None = None) -> Callable[[str], int]:
    """A function that counts the tokens of a text, and remembers those of words and sentences."""
    if tokenizer is None:
        tokenizer = re.compile(r"\w+|[^\w\s]").findall
    if hasattr(tokenizer, "encode"):
        tokenizer = partial(tokenizer.encode, add_special_tokens=False)
    elif not callable(tokenizer):
        raise TypeError(f"tokenizer must be callable or offer encode, got {tokenizer!r}: pass one that splits a text.")

    def count(text: str) -> int:
        return len(tokenizer(text))

    known = lru_cache(maxsize=100_000)(count)
    return lambda text: (known if len(text) <= REMEMBERED else count)(text)  # whole prompts would fill the memory
