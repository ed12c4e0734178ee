"""A letter means one thing in every lesson and on the cheat sheet: the table of the glossary, and no second meaning.

The table is compared with itself (a letter stands in one row) and with the lessons: the second meanings that letters
once had are patterns here, and none of them is found again.
"""

import re
from pathlib import Path

import nbformat
import pytest
from support.lesson_rules import prose
from support.solved_lessons import lessons

ROOT = Path(__file__).parents[2]
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.DOTALL)
# What a letter must not mean: (letter, the meaning that it once had as well, how that looks in a formula).
SECOND_MEANINGS = [
    (
        "s",
        "the sum of a state",
        r"\(m(_\w)?,\s*s\b|\+\s*\\log\s*s\b|(?<![A-Za-z])s_[ab]\b|=\s*\\sum_j e\^\{x_j - m\}.*\bs\b",
    ),
    ("s", "a score of a chunk", r"(?<![A-Za-z])s_i\b"),
    ("z", "the argument of a function", r"(softplus|sigmoid)\}?\(z\)|e\^z\b"),
    (
        "m",
        "rows of a rank",
        r"(?<![A-Za-z\\])m\s*(\\,)?\s*[bd]\b(?!_)|(?<![A-Za-z])m\^2|(?<![A-Za-z])m\s*(=\s*b|>\s*\\frac)",
    ),
    ("n", "ranks", r"\\bmod n\b|n\s*-\s*1\}\{n\}|\\frac\{?n\}?\s*\{?b\b|\{n\}\s*\\sum_[pq]\b"),
    ("W", "a weight matrix", r"W'|W_0|W \+ \\frac"),
    ("r, c", "rejected and chosen answers", r"\\bar r\b|\(c - |\\lambda\\?,?\s*c\b|(?<![A-Za-z\\])c - r\b"),
    (r"\sigma", "a sum of exponentials", r"\\log\s*\\sigma\s*[,=]|\\sigma_[ab]\b"),
    (r"\ell", "a running value", r"\\ell\s*(\\leftarrow|=\s*0)"),
]
# Lessons in which a letter still has a second meaning; the list only ever gets shorter.
NOT_YET = {"09", "10", "11", "13"}


def formulas(text):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    return [shown or inline for shown, inline in FORMULA.findall(text)]


def clashes(text):
    return [
        f"{letter} is {meaning} in {formula!r}"
        for formula in formulas(text)
        for letter, meaning, pattern in SECOND_MEANINGS
        if re.search(pattern, formula)
    ]


@pytest.mark.parametrize("path", lessons(), ids=lambda path: path.stem)
def test_no_letter_of_a_lesson_has_a_second_meaning(path):
    found = clashes("\n\n".join(prose(nbformat.read(path, as_version=4))))
    if path.name[:2] in NOT_YET:
        pytest.xfail("a letter has two meanings here")
    assert found == []


@pytest.mark.parametrize("page", ["cheat_sheet.md", "glossary.md", "index.md", "differences.md"])
def test_no_letter_of_a_page_has_a_second_meaning(page):
    assert clashes((ROOT / "book" / page).read_text()) == []


def test_a_letter_stands_in_one_row_of_the_table():
    table = (ROOT / "book" / "glossary.md").read_text().partition("\n## Letters\n")[2]
    rows = re.findall(r"^\| (\$[^|]+) \| (.+) \|$", table, re.MULTILINE)
    letters = [letter for cell, _ in rows for letter in re.findall(r"\$([^$]+)\$", cell)]
    assert len(letters) == len(set(letters))
    assert {"b", "d", "s", "X", "m", "z", "r", "c", "W", "M"} <= set(letters)


@pytest.mark.parametrize(
    "formula",
    ["(m, s)", r"m + \log s", "s_a e^{m_a - m}", r"m\,d", "m > \\frac{1}{2}", r"(p - k) \bmod n", r"\frac{n}{b} \sum_i",
     "W' = W + B A", r"\beta\,(c - \bar r)", r"m + \log \sigma, \qquad", r"\mathrm{softplus}(z)",
     r"\ell \leftarrow \ell + 1"],
)  # fmt: skip
def test_a_second_meaning_is_noticed(formula):
    assert clashes(f"Text ${formula}$ and more.") != []


@pytest.mark.parametrize("formula", ["(m, z)", r"\frac{W}{b} \sum_i", r"s\, G\, T", "r_i + c_i", r"\log \sigma(x)"])
def test_the_meaning_of_the_table_is_no_clash(formula):
    assert clashes(f"Text ${formula}$ and more.") == []
