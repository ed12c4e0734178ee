"""Code, lessons and book call things what the field calls them: words that were only ours do not come back.

Looked through: names of files, everything inside Python files (identifiers, comments, docstrings, strings), cells of
notebooks with their stored text and the alt texts of their figures, the pages of the book, the README and the files
that build the project. Words are looked for in the parts of an identifier, too: `on_card` and `CardPlan` have "card".
"""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
INSTEAD = {
    r"carriers?": "ring step, or rank",
    r"diar(?:y|ies)": "trace",
    r"greet(?:s|ed|ings?)?": "validate",
    r"hay": "running text, or prose",
    r"whole_files?": "atomic_path",
    r"calm(?:s|ed|er|ly|ing)?": "deterministic, or quiet",
    r"cards?": "GPU",
    r"answerers?": "answer function, or model",
    r"askers?": "say who asks",
    r"embedding[ _-]caches?": "gradient cache",
}
WORD = re.compile(r"(?<![a-z])(?:" + "|".join(f"({word})" for word in INSTEAD) + r")(?![a-z])")
ALLOWED = {"tests/test_words_of_the_field.py": "the list itself"}


def offences(text: str) -> list[str]:
    """ "line 3: card, say GPU" for every word of the list that stands in the text."""
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text).lower()
    # A phrase may run over the end of a line, into the next comment too; the count of lines stays.
    text = re.sub(r"(?<=embedding)\s*\n[\s#]*(?=cache)", " ", text)
    words = list(INSTEAD.values())
    return [
        f"line {text.count(chr(10), 0, found.start()) + 1}: {found[0]}, say {words[found.lastindex - 1]}"
        for found in WORD.finditer(text)
    ]


def text_of_notebook(source: str) -> str:
    """The cells of a notebook, what they printed, and the alt texts of their figures; no images."""
    pieces = []
    for cell in json.loads(source)["cells"]:
        pieces += [cell["source"], json.dumps(cell["metadata"])]
        for output in cell.get("outputs", ()):
            pieces += [output.get("text", ""), json.dumps(output.get("metadata", {}))]
            pieces += [output.get("evalue", ""), *output.get("traceback", ())]
            pieces += [content for kind, content in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(piece if isinstance(piece, str) else "".join(piece) for piece in pieces)


def read(path: Path) -> str:
    name, source = path.relative_to(ROOT).as_posix(), path.read_text()
    return name + "\n" + (text_of_notebook(source) if path.suffix == ".ipynb" else source)


PLACES = {
    "library and commands": ("minilib/**/*.py", "minilib/**/*.html", "minilib/**/*.jinja", "minilib/**/*.yaml"),
    "tests": ("tests/**/*.py",),
    "lessons": ("notebooks/**/*.ipynb",),
    "book": ("book/**/*.md", "README.md"),
    "build": ("Makefile", "pyproject.toml", "environment.yml", ".ci/*", ".devcontainer/*", ".binder/*"),
}


@pytest.mark.parametrize("place", PLACES)
def test_no_word_is_ours_alone(place):
    paths = sorted(path for pattern in PLACES[place] for path in ROOT.glob(pattern) if "_build" not in path.parts)
    found = {path.relative_to(ROOT).as_posix(): offences(read(path)) for path in paths}
    found = {name: words for name, words in found.items() if words and name not in ALLOWED}
    assert not found, "\n".join(f"{name}, {word}" for name, words in found.items() for word in words)


def test_every_exception_is_still_needed():
    for name in ALLOWED:
        assert offences(read(ROOT / name)), f"{name} needs no exception"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("on a CUDA card.", "card"),
        ("def on_card(): ...", "card"),
        ("class CardPlan: ...", "card"),
        ("two Cards", "cards"),
        ("the rank's diary", "diary"),
        ("DIARIES = []", "diaries"),
        ("minilib/losses/_greeting.py", "greeting"),
        ("a needle in the hay", "hay"),
        ("whole_file(path)", "whole_file"),
        ("a calm training", "calm"),
        ("answerer(model)", "answerer"),
        ("the asker", "asker"),
        ("check_carrier(1)", "carrier"),
        ("an embedding\n    # cache", "embedding cache"),
        ("check_embedding_cache_grads", "embedding_cache"),
    ],
)
def test_each_word_is_found(text, word):
    (found,) = offences(text)
    assert found.startswith(f"line 1: {word}, say ")


@pytest.mark.parametrize(
    "text", ["haystack", "discard", "cardinal", "a wildcard", "Shay", "carry", "a whole file", "tasker"]
)
def test_words_that_only_look_alike_are_left_alone(text):
    assert offences(text) == []


def test_a_notebook_is_read_with_its_outputs_and_without_its_images():
    png = {"data": {"image/png": "hay", "text/plain": "a card"}, "metadata": {"alt": "a diary"}}
    cells = [
        {"source": ["x = 1\n", "# carrier"], "metadata": {}, "outputs": [{"text": ["calm\n"]}, png]},
        {"source": "the hay", "metadata": {}},
    ]
    text = text_of_notebook(json.dumps({"cells": cells}))
    assert [found.split(": ")[1].split(",")[0] for found in offences(text)] == [
        "carrier",
        "calm",
        "diary",
        "card",
        "hay",
    ]
