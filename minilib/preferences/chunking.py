"""Cut a context into chunks, and choose by their scores what the chosen and the rejected answers may read.

The paper's rule (LOGO), for scores s_1 .. s_n, threshold delta and N chunks (6 and 16; 3 and 6 in the released code):

    critical    C = {i : s_i > delta}            irrelevant    I = {i : s_i <= delta}
    y_w         reads the N best of C            prompt        the N best of C, filled up to N from I
    y_l         "irrelevant": N of I             "mixed": half of the best of C, filled up to N from I

The released code's rule, whose prompt holds no distractor, which is why the paper's is the default:

    kept        K = the N best chunks; the sample is dropped unless s_i >= delta for every one
    y_w, prompt both read K                      y_l           "half": the best N/2 of K; "wrong": the last N/2 of K

Departures: the paper leaves open s_i = delta (irrelevant here), what a mixture is (half of the critical chunks, at
least one), and more than N critical chunks (the best N stay, the rest is counted). Chunks hold whole words here.
Taught in notebooks/11_make_chosen_and_rejected_answers.ipynb.
"""

from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple

import regex

from minilib.data.running_text import token_counter
from minilib.evals.answers import UNBROKEN, split_words

Draw = tuple[str, list[int]]  # how a rejected answer came about, and the chunks that it may read

RULES = {
    "paper": {"chunk_size": 512, "threshold": 6, "num_chunks": 16},
    "released": {"chunk_size": 1024, "threshold": 3, "num_chunks": 6},
}


class Plan(NamedTuple):
    """Which chunks are read: by the chosen answer, by training, and by one rejected answer after the other."""

    chosen: list[int]
    prompt: list[int]
    rejected: Iterator[Draw]
    left_out: int  # critical chunks beyond N, which nobody reads


count_words = token_counter(split_words)
# A word with the blanks before it, a sign of a script without blanks, the last blanks of all.
PIECE = regex.compile(rf"\s*(?:[{UNBROKEN}]\p{{M}}*|[[\S]--[{UNBROKEN}]]+)|\s+\Z", regex.VERSION1)


def chunk_text(text: str, size: int, count: Callable[[str], int] = count_words) -> list[str]:
    """Cut `text` into chunks of at most `size` tokens without cutting a word; joined, they are the text again.

    count: how many tokens a piece of text has (`token_counter`), by default its words. It is asked word by word; a word
    that is longer than a chunk is cut after all. In a script without blanks between words, a sign is a word.
    """
    chunks, room = [], 0
    for word in PIECE.findall(text):
        for piece in _pieces(word, size, count):
            cost = count(piece) if piece.strip() else 0
            if not chunks or cost > room:
                chunks.append("")
                room = size
            chunks[-1] += piece
            room -= cost
    return chunks


def _pieces(word: str, size: int, count: Callable[[str], int]) -> list[str]:
    if len(word) < 2 or count(word) <= size:
        return [word]
    middle = len(word) // 2
    return _pieces(word[:middle], size, count) + _pieces(word[middle:], size, count)


def paper_rule(scores: list[float], threshold: float, num_chunks: int, num_rejected: int, rng: Random) -> Plan | str:
    """The paper's choice for one context, or the reason why it offers no contrast."""
    critical = [i for i, score in enumerate(scores) if score > threshold]
    irrelevant = [i for i, score in enumerate(scores) if score <= threshold]
    if not critical:
        return "no critical chunk"
    if not irrelevant:
        return "no irrelevant chunk"
    best = _best(critical, scores, num_chunks)
    return Plan(
        chosen=sorted(best),
        prompt=_filled(best, irrelevant, num_chunks, rng),
        rejected=_paper_draws(best, irrelevant, num_chunks, num_rejected, rng),
        left_out=len(critical) - len(best),
    )


def _paper_draws(
    best: list[int], irrelevant: list[int], num_chunks: int, num_rejected: int, rng: Random
) -> Iterator[Draw]:
    """M draws, mixed and irrelevant by turns, the last irrelevant; then irrelevant ones in place of dropped answers.

    A set of chunks comes up once only: the same prompt again would be answered alike. So the draws may run out.
    """
    kinds = ["irrelevant" if (num_rejected - j) % 2 else "mixed" for j in range(num_rejected)]
    seen, misses = set(), 0
    while kinds or misses < 20:
        kind = kinds.pop(0) if kinds else "irrelevant"
        held = rng.sample(best, max(1, len(best) // 2)) if kind == "mixed" else []
        chunks = _filled(held, irrelevant, num_chunks, rng)
        if tuple(chunks) in seen:
            misses += 1
            continue
        seen.add(tuple(chunks))
        misses = 0
        yield kind, chunks


def released_rule(scores: list[float], threshold: float, num_chunks: int, num_rejected: int, rng: Random) -> Plan | str:
    """The released code's choice for one context, or the reason why it drops the sample; it draws nothing at random."""
    kept = _best(list(range(len(scores))), scores, num_chunks)
    if scores[kept[0]] < threshold:
        return "no critical chunk"
    if scores[kept[-1]] < threshold:
        return "a kept chunk below the threshold"
    if len(kept) < 2:
        return "fewer than two chunks"
    half = len(kept) // 2
    draws = [("half", sorted(kept[:half])), ("wrong", sorted(kept[-half:]))]
    return Plan(chosen=sorted(kept), prompt=sorted(kept), rejected=iter(draws[:num_rejected]), left_out=0)


def _best(chunks: list[int], scores: list[float], count: int) -> list[int]:
    """The `count` best chunks, best first."""
    return sorted(chunks, key=lambda i: -scores[i])[:count]


def _filled(held: list[int], others: list[int], count: int, rng: Random) -> list[int]:
    """`held` and as many random `others` as fit into `count`, in the order of the document."""
    return sorted(held + rng.sample(others, min(count - len(held), len(others))))
