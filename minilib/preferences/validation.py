"""What `build_pairs` accepts: settings, rows, scores and answers; for what is wrong, one sentence."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from numbers import Real

from minilib.preferences.chunking import RULES
from minilib.preferences.resumable_jsonl import fingerprint


def check_callables(**given) -> None:
    for name, function in given.items():
        if not callable(function) and not (name == "is_right" and function is None):
            raise TypeError(f"{name} is {_short(function)}: give a function.")


def check_rule(rule) -> None:
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is unknown: choose one of {', '.join(map(repr, RULES))}.")


def check_numbers(config) -> None:
    """The numbers of a `PairsConfig` whose gaps are filled."""
    least = {"num_rejected": 1, "tries": 1, "batch_size": 1, "seed": 0, "chunk_size": 1, "num_chunks": 2}
    for name, smallest in least.items():
        _whole(name, getattr(config, name), smallest)
    if config.max_tokens is not None:
        _whole("max_tokens", config.max_tokens, 1)
    if config.rule == "released" and config.num_rejected > 2:
        raise ValueError(
            f"num_rejected is {config.num_rejected}: the released rule makes at most 2, use the paper's for more."
        )
    if not isinstance(config.similarity, Real) or not 0 < config.similarity <= 1:
        raise ValueError(f"similarity is {config.similarity!r}: give a share of common words, above 0 and at most 1.")
    if not (config.separator is None or isinstance(config.separator, str)):
        raise TypeError(f"separator is {_short(config.separator)}: give a text, or None for a blank where one belongs.")
    if not _is_number(config.threshold):
        raise ValueError(f"threshold is {config.threshold!r}: give a finite number on the scale of the scorer.")


def check_judge(require_right: bool, is_right: Callable | None) -> None:
    if require_right and is_right is None:
        raise ValueError("require_right is True and is_right is None: give a function that tells right answers.")


def check_tokenizer(tokenizer) -> None:
    usable = tokenizer is None or callable(tokenizer) or hasattr(tokenizer, "encode")
    if not usable or isinstance(tokenizer, str):  # a str has a method of that name, too
        raise TypeError(f"tokenizer is {_short(tokenizer)}: give a tokenizer, or a function from a text to tokens.")


def check_rereading(examples: Iterable, read: bool) -> None:
    if not isinstance(examples, Iterable) or isinstance(examples, (str, Mapping)):
        raise TypeError(f"examples is {_short(examples)}: give an iterable of rows, such as one split of a dataset.")
    if read and iter(examples) is examples:
        raise ValueError("examples is an iterator that has been read: give a list, a dataset or a fresh iterator.")


def rows_from(
    examples: Iterable, start: int, last: str | None, is_right: Callable | None
) -> Iterator[tuple[int, dict]]:
    """Numbered, checked rows from row `start` on; row start - 1 must have the fingerprint `last`."""
    first = max(start - 1, 0)
    left = examples.skip(first) if first and hasattr(examples, "skip") else islice(iter(examples), first, None)
    missing = start > 0
    for number, row in enumerate(left, first):
        _check_row(number, row, is_right)
        if number >= start:
            yield number, row
            continue
        if fingerprint(row) != last:
            raise ValueError(
                f"examples has another row {number} than when the file at path was begun: give the same rows, or "
                "another path."
            )
        missing = False
    if missing:
        raise ValueError(
            f"examples has fewer than the {start} rows that the file at path stands for: give the same rows, or "
            "another path."
        )


def _check_row(number: int, row, is_right: Callable | None) -> None:
    if not isinstance(row, Mapping):
        raise TypeError(f"examples has a {type(row).__name__} as row {number}: give dicts with context and question.")
    judged = is_right is not None or row.get("answer")  # what is not judged may be left out, but not be nonsense
    for name in ("context", "question", "answer") if judged else ("context", "question"):
        value = row.get(name)
        if value is None or value == "" or value == [] or (isinstance(value, str) and not value.strip()):
            hint = ", or pass is_right=None" if name == "answer" else ""
            raise ValueError(f"examples has no {name!r} in row {number}: fill the field or drop the row{hint}.")
        texts = value if name == "answer" and isinstance(value, (list, tuple)) else [value]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"examples has a {type(value).__name__} as {name!r} in row {number}: give text.")
        if not all(text.strip() for text in texts):
            raise ValueError(f"examples has an empty text as {name!r} in row {number}: leave it out.")


def checked_score(score, number: int) -> float:
    score = score.item() if hasattr(score, "item") else score
    if not _is_number(score):
        raise ValueError(f"scorer returned {_short(score)} for a chunk of row {number}: return a finite number.")
    return score


def checked_answers(answers, count: int) -> list[str]:
    if isinstance(answers, (str, Mapping)) or not isinstance(answers, Iterable):
        raise TypeError(f"answer_fn returned {_short(answers)}: return a list with one answer for each prompt.")
    answers = list(answers)
    if len(answers) != count:
        raise ValueError(f"answer_fn returned {len(answers)} answers for {count} prompts: return one for each.")
    for k, answer in enumerate(answers):
        if not isinstance(answer, str):
            raise TypeError(f"answer_fn returned {_short(answer)} as answer {k}: return text.")
    return answers


def name_of(given) -> str | None:
    """What stands for a function in the settings of a file: its name, or the name of its type."""
    return None if given is None else getattr(given, "__qualname__", type(given).__name__)


def _is_number(value) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _whole(name: str, value, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}: give a whole number.")
    if value < least:
        raise ValueError(f"{name} is {value}: give at least {least}.")


def _short(value) -> str:
    text = repr(value)
    return f"a {type(value).__name__}" if len(text) > 40 or "\n" in text else text
