"""When an answer is right: the accepted answer stands in it word for word, after normalising both.

    contains    " gold words " is a part of " answer words "                      (Lost in the Middle's rule)
    exact       gold words = answer words
    f1          2 m / (g + a), m words in common of g gold and a answer words             (SQuAD's, LongBench's)

Words are what is left of a text in NFKC and folded case without punctuation and articles:

    number    with its sign, decimals and scale: -5, 5.7, 12,000 and 12 000 (as 12000), 10:30, 5 million, twenty-one;
              currencies, percents and units are words behind it, so that "$5" and "5 $", "5km" and "5 km" are the same
    name      what belongs to it stays with it: C++, C#, .NET, A+, U.S. (as us)
    sign      each one of a script without blanks between its words: 北京 are two words
    other     runs of letters, digits and marks

A text that has no words by these rules ("+"), or is an article ("A" where answers are letters), is looked for as it is
written. Taught in notebooks/08_see_long_context_models_fail.ipynb and
notebooks/11_make_chosen_and_rejected_answers.ipynb.
"""

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

import regex  # beyond re: scripts, marks and atomic groups

ARTICLES = ("a", "an", "the")
UNBROKEN = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}ー々〆"  # no blanks at all
SIGNS = UNBROKEN + r"\p{Hangul}"  # Korean words have blanks between, but grow particles: 서울 stands in 서울입니다
LETTER = rf"[[\w\p{{M}}]--[{SIGNS}]]"
NUMBERS = (
    r"\d{1,3}(?:,\d{2,3})*,\d{3}(?!\d)(?:\.\d+)?",  # 12,000.5 and 1,00,000
    r"\d{1,3}(?:\.\d{3}){2,}(?!\d)(?:,\d+)?",  # 1.234.567,5
    r"\d+_\d+/\d+|(?<![/\d])\d+/\d+(?![/\d])|\d+(?::\d+)+|\d+\^-?\d+",  # five and a half, 1/2, 10:30, 10 to the 5th
    r"\d+(?:\.\d+){2,}+(?<!\.\d{4})",  # a version; but 12.05.2020 is a date
    r"(?<!\d,)\d+[.,]\d+(?!,?\d)|\d+|(?<![\w.])\.\d+",  # but 1,2,3 is a list
)
SCALES = "hundred|thousand|million|billion|trillion|万|萬|亿|億|兆"
TENS, ONES = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety", "one|two|three|four|five|six|seven|eight|nine"
_UNITS = "km cm mm nm kg mg lb lbs oz ms hr hrs min sec kb mb gb tb hz khz mhz ghz kw kwh ml mph am pm"
UNITS = frozenset(_UNITS.split())
SYMBOLS = {"percent": "%", "dollar": "$", "dollars": "$", "euro": "€", "euros": "€", "yen": "¥"}
CODES = "usd|eur|gbp|jpy"
SYMBOLS |= dict(zip(CODES.split("|"), "$€£¥"))
WORD = regex.compile(
    rf"""(?P<sign>(?<![[{LETTER})\].]])[-−–+]|\b(?:minus|negative)\ )?  (?:(?P<money>\p{{Sc}}|\b(?:{CODES}))\s?)?
         (?P<number>(?>{"|".join(NUMBERS)}))  (?P<unit>{LETTER}*(?:\^\d+)?)  (?P<scale>\s?(?:{SCALES})(?!{LETTER}))?
       | (?P<name>(?<![\w.])\.[a-z]{LETTER}+ | [a-z]\w*\+\+(?![a-z]) | (?<!\w)[a-z](?:[+-]|\#)(?!\w))
       | (?P<word>[{SIGNS}]\p{{M}}* | {LETTER}+(?:\^-?\d+)? | \p{{Sc}} | %)""",
    regex.VERBOSE | regex.VERSION1,
)


def plain_words(text: str) -> list[str]:
    """The words of a text, in lower case and without punctuation and articles, as question answering is scored."""
    words = [word for match in WORD.finditer(_folded(text)) for word in _words_of(match)] or text.split()
    return [word for word in words if word not in ARTICLES] or words


def normalise(text: str) -> str:
    """The words of a text with single blanks between."""
    return " ".join(plain_words(text))


def contains(answer: str, gold: str) -> bool:
    """Whether the words of `gold` stand in `answer` in one run, after normalising both."""
    if not re.search(r"\w", gold) or set(plain_words(gold)) <= {*ARTICLES}:  # "(A)" as well
        written = re.sub(r"^\W+|\W+$", "", gold) or gold.strip()
        return written != "" and re.search(rf"(?<!\w){re.escape(written)}(?![\w+#]|-(?!\w))", answer) is not None
    return f" {normalise(gold)} " in f" {normalise(answer)} "


def contains_answer(answer: str, row: dict) -> bool:
    """Whether an accepted answer (`row["answer"]`: a text or a list of texts) stands in `answer`, word for word."""
    return any(contains(answer, gold) for gold in accepted(row))


def answer_scores(answer: str, golds: Sequence[str]) -> dict[str, float]:
    """`exact`, `contains` and `f1` of an answer, each the best over the accepted ones, from 0 to 1."""
    rules: dict[str, Callable] = {"exact": _exact, "contains": contains, "f1": token_f1}
    return {name: max(float(rule(answer, gold)) for gold in golds) for name, rule in rules.items()}


def token_f1(answer: str, gold: str) -> float:
    """Harmonic mean of the shares of gold and of answer words that the other has, repeated words counted."""
    said, wanted = plain_words(answer), plain_words(gold)
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


def accepted(row: dict) -> list[str]:
    """The accepted answers of a row, which may have one as a text."""
    return [row["answer"]] if isinstance(row["answer"], str) else list(row["answer"])


def split_words(text: str) -> list[str]:
    """Words between blanks; of scripts that have none between words, every sign."""
    return regex.findall(rf"[{UNBROKEN}]\p{{M}}*|[[\S]--[{UNBROKEN}]]+", text, regex.VERSION1)


def ends_unbroken(text: str) -> bool:
    """Whether no blank belongs behind this text: it ends in a script without blanks, or in the punctuation of one."""
    return regex.search(rf"[{UNBROKEN}\u3000-\u303f\uff00-\uffef]\p{{M}}*$", text[-8:]) is not None


def _exact(answer: str, gold: str) -> bool:
    return plain_words(answer) == plain_words(gold)


def _folded(text: str) -> str:
    """NFKC and folded case, digits of all scripts as 0 to 9, nothing invisible; 10⁵ stays another number than 105."""
    text = html.unescape(text)
    text = regex.sub(r"(?<=(?<![\d.,:/])\d{1,3})[ \u00a0\u2009\u202f'’](?=\d{3}(?!\d))", ",", text)  # thousands
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", r"^\g<0>", text)
    text = re.sub(r"(?<![^\W_])_+|_+(?![^\W_])", " ", text)  # Markdown's emphasis
    text = re.sub("(?<=\\d)(?=[¼½¾⅐-⅞])", "_", text)
    text = regex.sub(r"\p{Cf}|[™®©]", "", text).replace("⁄", "/")
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).replace("⁄", "/")
    text = text.replace("i\u0307", "i").replace("ı", "i")  # Turkish has four
    text = re.sub("[\u0591-\u05c7\u0640\u064b-\u0652\u0670]", "", text)  # vowels of Hebrew and Arabic, seldom written
    text = regex.sub(r"(?<![\w.])(?:[a-z]\.\ ?){2,}", lambda found: regex.sub(r"\W", "", found[0]) + " ", text)  # U.S.
    text = re.sub(rf"\b({TENS})[- ]({ONES})\b", r"\1\2", re.sub(r"(?<=\d)['’]s\b", "s", text))
    text = text.replace("per cent", "percent")
    return "".join(str(unicodedata.decimal(one)) if one.isdecimal() else one for one in text)


def _words_of(match) -> list[str]:
    """The words of one match: a number in one way of writing it, and behind it what it counts."""
    if match["number"] is None:
        return [SYMBOLS.get(match[0], match[0])]
    number = match["number"]
    if re.fullmatch(r"[\d,]+,\d{3}(\.\d+)?", number):
        number = number.replace(",", "")
    elif re.fullmatch(r"\d+(\.\d{3}){2,}(,\d+)?", number):
        number = number.replace(".", "").replace(",", ".")
    number = number.replace(",", ".").replace("−", "-")
    minus = "-" if match["sign"] and match["sign"] != "+" else ""
    known = match["unit"] in UNITS
    whole = minus + ("0" + number if number[0] == "." else number)
    whole += ("" if known else match["unit"]) + (match["scale"] or "").strip()
    behind = [match["unit"] if known else None, SYMBOLS.get(match["money"], match["money"])]
    return [whole, *filter(None, behind)]
