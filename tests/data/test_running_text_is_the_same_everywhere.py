"""The running text is a stored file, so every Python reads the same sentences in the same order."""

import ast
import hashlib
import sys
from pathlib import Path

import pytest

import minilib
from minilib.data.running_text import HELP_TOPICS, help_topics, prose_sentences, token_counter

PACKAGE = Path(minilib.__file__).parent


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_sentences_are_those_of_python_3_11_7_in_their_order():
    assert len(prose_sentences()) == 1475
    digest = sha256("\n".join(prose_sentences()))
    assert digest == "ddc848eb3128bda3a2ee367301f8cd1f3fece4134e7e1ecafc4672f86c00529f"


def test_the_notice_names_source_licence_and_digest_of_the_text():
    notice = (HELP_TOPICS.parent / "README.md").read_text()
    assert HELP_TOPICS.name in notice
    assert "CPython 3.11.7" in notice
    assert "Python Software Foundation" in notice
    assert sha256(help_topics()) in notice
    assert "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2" in (HELP_TOPICS.parent / "LICENSE").read_text()


@pytest.mark.skipif(sys.version_info[:3] != (3, 11, 7), reason="the text is that of Python 3.11.7")
def test_the_text_is_that_of_its_source():
    from pydoc_data.topics import topics

    assert help_topics() == "\n\n".join(topics.values())


def test_no_module_reads_the_help_of_the_running_python():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            roots = {name.partition(".")[0] for name in names}
            assert not roots & {"pydoc", "pydoc_data", "this"}, path


def test_counts_of_words_are_remembered_and_those_of_whole_prompts_are_not():
    asked = []
    count = token_counter(lambda text: asked.append(text) or text.split())
    for text in ("a word", "a word", "long " * 1_000, "long " * 1_000):
        assert count(text) == len(text.split())
    assert [len(text) for text in asked] == [6, 5_000, 5_000]
