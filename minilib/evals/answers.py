"""When an answer is right: the accepted answer stands in it word for word, after normalising both.

    right = " gold words " is a part of " answer words "          (Lost in the Middle's rule)

Normalised are lower case, no punctuation, no articles, single blanks; what would be empty by these rules ("+", or "A"
where answers are letters) is looked for as it is written.
Taught in notebooks/08_see_long_context_models_fail.ipynb and notebooks/11_make_chosen_and_rejected_answers.ipynb.
"""

import re

ARTICLES = ("a", "an", "the")


def plain_words(text: str) -> list[str]:
    """Lower-case words without punctuation and articles, as question answering is usually scored."""
    words = re.findall(r"\w+", text.lower()) or text.split()
    return [word for word in words if word not in ARTICLES] or words


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single blanks."""
    return " ".join(plain_words(text))


def contains(answer: str, gold: str) -> bool:
    """Whether the words of `gold` stand in `answer` in one run, after normalising both."""
    if not re.search(r"\w", gold) or gold.lower() in ARTICLES:
        return re.search(rf"(?<!\w){re.escape(gold.strip())}(?!\w)", answer) is not None
    return f" {normalise(gold)} " in f" {normalise(answer)} "


def contains_answer(answer: str, row: dict) -> bool:
    """Whether an accepted answer (`row["answer"]`: a text or a list of texts) stands in `answer`, word for word."""
    golds = [row["answer"]] if isinstance(row["answer"], str) else row["answer"]
    return any(contains(answer, gold) for gold in golds)
