"""Checks of lesson 11, make chosen and rejected answers: cut, score by rare words, choose, mix contexts, recount.

Solutions: `chunk_text` and the plan of `paper_rule` in `minilib.preferences.chunking`, `rare_words` in
`minilib.preferences.importance`, and the tallies of `minilib.preferences.filtering`. What is drawn at random is judged
by what must hold for every draw.
"""

import math
import re
from collections.abc import Callable, Sequence
from random import Random

from minilib.evals.answers import contains_answer
from minilib.preferences.chunking import chunk_text, paper_rule
from minilib.preferences.filtering import QualityReport, Tally, judge
from minilib.preferences.importance import FUNCTION_WORDS, rare_words
from minilib.teaching.checks.contract import MISSING, compare, run

STORY = (
    "Boats come up the slow river. Lisbon keeps amber. Nobody counts it. The market opens early in May. "
    "Oslo keeps salt. Rain is rare. Lisbon keeps silk. Trams of Lisbon are yellow. Nobody counts trams in the rain."
)


def check_cut_into_chunks(learner: Callable[[str, int], Sequence[str]]) -> None:
    """Exercise: `cut_into_chunks(text, size)`, texts of `size` whole words, which joined are the text."""
    cases = {
        "for four words, two at a time": lambda fn: _cut(fn, "a bc d ef", 2),
        "for five words with wide gaps, two at a time": lambda fn: _cut(fn, " a  bc\n\nd ef g \n", 2),
        "for the words one by one": lambda fn: _cut(fn, STORY, 1),
        "for the story of 36 words, 7 at a time": lambda fn: _cut(fn, STORY, 7),
        "for more room than words": lambda fn: _cut(fn, "a bc d", 10),
    }
    run(learner, cases, "whole words, at most so many, nothing lost; but a fact may lie across a cut")


def check_rare_overlap(learner: Callable[[str, str, str], float]) -> None:
    """Exercise: `rare_overlap(chunk, question, context)`, the sum of log(T / n_w) over the shared words."""
    salt = "Oslo keeps salt. Rain is rare.", "Who is in Oslo?"
    silk = "Lisbon keeps silk. Trams of Lisbon are yellow.", "What does LISBON keep? Lisbon, where trams run?"
    amber = "Lisbon keeps amber. Nobody counts it.", "Who counts the amber of Lisbon?"
    cases = {
        "for a chunk that shares one word": lambda fn: _overlap(fn, *salt),
        "for a chunk that shares a rare and a common word": lambda fn: _overlap(fn, *amber),
        "for a chunk that has a shared word twice": lambda fn: _overlap(fn, *silk),
        "for a chunk that shares nothing": lambda fn: _overlap(fn, "The market opens early in May.", "Where is Oslo?"),
    }
    run(learner, cases, "a rare word that both have says more than many common ones")


def check_critical_chunks(learner: Callable[[Sequence[float], float, int], Sequence[int]]) -> None:
    """Exercise: `critical_chunks(scores, threshold, num_chunks)`, the N best above the threshold, in text order."""
    cases = {
        "for the scores 1, 3, 0, 4, 2 and a threshold of 1.5": lambda fn: _critical(fn, [1, 3, 0, 4, 2], 1.5, 4),
        "for a score that equals the threshold": lambda fn: _critical(fn, [6, 7, 2, 9], 6, 4),
        "for more critical chunks than N": lambda fn: _critical(fn, [3, 1, 2, 0, 5, 4], 0, 3),
        "for equal scores and more of them than N": lambda fn: _critical(fn, [2, 1, 2, 0, 2, 2], 0, 2),
        "for no critical chunk": lambda fn: _critical(fn, [1, 0, 2, 1], 2, 2),
    }
    run(learner, cases, "strictly above the threshold, the best N of them, and read in the order of the document")


def check_mixed_context(learner: Callable[[Sequence[int], Sequence[int], int, Random], Sequence[int]]) -> None:
    """Exercise: `mixed_context(critical, irrelevant, num_chunks, rng)`, half of the one, filled up from the other."""
    many = list(range(20, 40))
    cases = {
        "for 4 critical chunks, N = 8": lambda fn: _mixed(fn, [11, 2, 14, 5], many, 8),
        "for 3 critical chunks, N = 6": lambda fn: _mixed(fn, [9, 41, 3], many, 6),
        "for one critical chunk": lambda fn: _mixed(fn, [7], many, 4),
        "for fewer irrelevant chunks than there is room": lambda fn: _mixed(fn, [5, 1], [0, 2, 4], 8),
    }
    run(learner, cases, "half of the critical chunks among distractors: the answer comes out incomplete")


def check_recount(learner: Callable[[Sequence[dict]], tuple[float, float, float]]) -> None:
    """Exercise: `recount(pairs)`, the shares of identical pairs, of right negatives and of wrong positives."""
    plain = [_pair("amber", ["silk", "amber"], "amber"), _pair("salt", ["tea", "silk"], "tea")]
    spelled = [
        _pair("It is amber.", ["Amber", "it is the Amber", "silk"], "amber"),
        _pair("salt", ["no salt", "tea", "Salt!"], "salt"),
        _pair("tea", ["silk", "tin", "wax"], "silk"),
    ]
    cases = {
        "for two pairs with M = 2": lambda fn: _recount(fn, plain),
        "for answers in other spellings, M = 3": lambda fn: _recount(fn, spelled),
        "for one perfect pair": lambda fn: _recount(fn, [_pair("tea", ["silk", "tin"], "tea")]),
    }
    run(learner, cases, "negatives are counted over all rejected answers, positives over the chosen ones")


def _cut(fn: Callable, text: str, size: int) -> str | None:
    want, words = chunk_text(text, size), text.split()
    places = range(0, len(words), size)
    behind = re.findall(r"\S+\s*|\A\s+", text)
    suspects = {
        "blanks are lost: joined, the chunks are not the text": [" ".join(words[i : i + size]) for i in places],
        "all blanks are lost: keep them in the pieces": ["".join(words[i : i + size]) for i in places],
        "the last words are missing: the last chunk may be shorter": want[: len(words) // size],
        "a word takes the blanks behind it along: take those before it": _grouped(behind, size),
        "it is cut by characters: count words": [text[i : i + size] for i in range(0, len(text), size)],
        "those are lists of words: join the words of a chunk": [words[i : i + size] for i in places],
        "a chunk has one word too many": chunk_text(text, size + 1),
    }
    got = fn(text, size)
    if got is None:
        return MISSING
    if list(got) == want:
        return None
    told = f"it returned {len(got)} chunks and should return {len(want)}"
    if not all(isinstance(chunk, str | list) for chunk in got):
        return "the chunks are no texts: return a list of texts"
    if len(got) == len(want):
        told = next(f"chunk {k} is {g!r} and should be {w!r}" for k, (g, w) in enumerate(zip(got, want)) if g != w)
    return next((hint for hint, chunks in suspects.items() if list(got) == chunks), told)


def _grouped(pieces: list[str], size: int) -> list[str]:
    return ["".join(pieces[i : i + size]) for i in range(0, len(pieces), size)]


def _overlap(fn: Callable, chunk: str, question: str) -> str | None:
    def scored(wording=str.lower, without=FUNCTION_WORDS, counted=STORY, distinct=False, often=False, value=math.log):
        asked, here = (re.findall(r"\w+", wording(text)) for text in (question, chunk))
        counts, kinds = re.findall(r"\w+", wording(counted)), set(re.findall(r"\w+", wording(STORY)))
        shared = [w for w in (here if often else sorted(set(here))) if w in asked and w not in without]
        total = len(kinds) if distinct else len(counts)
        return sum(value(total / counts.count(w)) for w in shared)

    want = float(rare_words(chunk, question, {"context": STORY}))
    suspects = {
        "every shared word counts 1: weigh it by log(T / n_w)": scored(value=lambda ratio: 1.0),
        "function words are among the shared words: leave FUNCTION_WORDS out": scored(without=()),
        "n_w and T are counted in the chunk: count them in the whole context": scored(counted=chunk),
        "T is the number of different words: count every word as often as it stands there": scored(distinct=True),
        "the sign is turned round: a rare word has a small n_w, and log(T / n_w) is positive": -want,
        "a word that stands twice in the chunk counts twice: take the set of its words": scored(often=True),
        "the logarithm is missing": scored(value=float),
        "that is the logarithm to the base 2: take the natural one": want / math.log(2),
        "capital letters hide a word: compare in lower case": scored(wording=str),
    }
    return compare(fn(chunk, question, STORY), want, {hint: s for hint, s in suspects.items() if s != want}, tol=1e-6)


def _critical(fn: Callable, scores: list[float], threshold: float, num_chunks: int) -> str | None:
    plan = paper_rule(scores, threshold, num_chunks, 1, Random(0))
    want = [] if isinstance(plan, str) else plan.chosen
    every, best = range(len(scores)), sorted(range(len(scores)), key=lambda i: -scores[i])
    above = [i for i in every if scores[i] > threshold]
    late = sorted(above, key=lambda i: (-scores[i], -i))
    filled = sorted(best[:num_chunks])
    equal, unsorted = [i for i in best if scores[i] >= threshold], [i for i in best if i in above][:num_chunks]
    suspects = {
        "a score that equals the threshold is not above it": sorted(equal[:num_chunks]),
        "those are the irrelevant chunks": [i for i in every if scores[i] <= threshold][:num_chunks],
        "those are the first ones of the document: take the best when there are more than N": above[:num_chunks],
        "more than N are returned": above,
        "the places are right and the order is not: chunks are read in the order of the document": unsorted,
        "it is filled up to N with chunks below the threshold: the chosen answer reads critical ones only": filled,
        "of equal scores the later chunk is taken: take the earlier one": sorted(late[:num_chunks]),
        "those are the scores: return the numbers of the chunks": [scores[i] for i in want],
    }
    return _same_chunks(fn(list(scores), threshold, num_chunks), want, suspects)


def _same_chunks(got, want: list[int], suspects: dict[str, list]) -> str | None:
    if got is None:
        return MISSING
    got = [float(i) for i in got]
    if got == want:
        return None
    told = f"it returned the chunks {[int(i) if i == int(i) else i for i in got]} and should return {want}"
    return next((hint for hint, chunks in suspects.items() if got == chunks), told)


def _mixed(fn: Callable, critical: list[int], irrelevant: list[int], num_chunks: int) -> str | None:
    """What must hold for each of 40 draws, then what must vary between them."""
    draws, half = [], max(1, len(critical) // 2)
    for seed in range(40):
        got = fn(list(critical), list(irrelevant), num_chunks, Random(seed))
        if got is None:
            return MISSING
        draws.append([int(i) for i in got])
        if hint := _mixed_hint(draws[-1], critical, irrelevant, num_chunks, half):
            return hint
    held = {i for chunks in draws for i in chunks if i in critical}
    if held != set(critical):
        return "some critical chunks never come up: draw which half is held with rng.sample"
    if len(irrelevant) > num_chunks and len({tuple(i for i in d if i in irrelevant) for d in draws}) < 10:
        return "the distractors hardly change from draw to draw: draw them with rng.sample"
    return None


def _mixed_hint(got: list[int], critical: list[int], irrelevant: list[int], num_chunks: int, half: int) -> str | None:
    count, wanted = sum(i in critical for i in got), min(num_chunks, half + len(irrelevant))
    alien = [i for i in got if i not in critical and i not in irrelevant]
    if alien:
        return f"chunk {alien[0]} is neither critical nor irrelevant"
    if len(set(got)) < len(got):
        return "a chunk comes twice: draw without putting back, with rng.sample"
    if count == 0:
        return "it holds no critical chunk: keep at least one, or it is no mixture"
    if len(critical) > 1 and count == len(critical):
        return "it holds every critical chunk: keep half of them, so that something is missing"
    if count != half:
        return f"it holds {count} critical chunks and should hold {half}: half of those given, rounded down, at least 1"
    if len(got) != wanted:
        told = f"it holds {len(got)} chunks and should hold {wanted}"
        return f"{told}: fill up to N with irrelevant ones, if there are any"
    return None if got == sorted(got) else "the chunks are not in the order of the document: sort them"


def _pair(chosen: str, rejected: list[str], answer: str) -> dict:
    return {"chosen": chosen, "rejected": rejected, "answer": answer}


def _recount(fn: Callable, pairs: list[dict]) -> str | None:
    tally, every = Tally(), [(pair, answer) for pair in pairs for answer in pair["rejected"]]
    for pair in pairs:
        tally.add_chosen(contains_answer(pair["chosen"], pair))
    for pair, answer in every:
        tally.add_rejected(judge(answer, pair["chosen"], [], contains_answer(answer, pair), 0.9))
    shares = QualityReport(pairs=len(pairs), kept=tally).shares()
    want = tuple(shares[name] for name in ("identical pairs", "right negatives", "wrong positives"))
    raw = sum(answer == pair["chosen"] for pair, answer in every) / len(every)
    equal = [sum(answer == pair["answer"] for pair, answer in every) / len(every)]
    equal.append(sum(pair["chosen"] != pair["answer"] for pair in pairs) / len(pairs))
    per_pair = len(every) / len(pairs)
    by_prompt = want[0] * per_pair, want[1] * per_pair, want[2]
    by_rejected = *want[:2], want[2] / per_pair
    suspects = {
        "identical is taken letter by letter: compare plain_words of both": (raw, *want[1:]),
        "right is taken letter by letter: ask contains_answer": (want[0], *equal),
        "both are taken letter by letter: use plain_words and contains_answer": (raw, *equal),
        "negatives are divided by the number of prompts: divide by the number of rejected answers": by_prompt,
        "wrong positives are divided by the number of rejected answers: divide by that of chosen ones": by_rejected,
        "the third is the share of right positives: count the wrong ones": (*want[:2], 1 - want[2]),
        "the second is the share of wrong negatives: count the right ones": (want[0], 1 - want[1], want[2]),
        "those are counts: divide by the number of answers": (tally.identical, tally.right, tally.wrong),
    }
    return compare(fn([dict(pair) for pair in pairs]), want, suspects)
