"""Every `python -m minilib …` that README, book and lessons print has flags and values that the command line reads."""

import json
import re
import shlex
from pathlib import Path

import pytest
from jsonargparse import auto_cli, capture_parser
from support.printed import PAGES, ROOT

from minilib import __main__ as program
from minilib.cli.command_line import UsageError, normalised
from minilib.cli.workshop import named

BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
IN_BLOCK = re.compile(r"-m minilib ((?:[^\n\\]|\\\n)+)")
IN_TEXT = re.compile(r"`[^`]*-m minilib\s([^`]+)`")
LESSONS = sorted(ROOT.glob("notebooks/**/*.ipynb"))


def commands(text: str) -> set[str]:
    """The commands of a text, up to a comment; none of those with a hole for a value, or with a list of commands."""
    inside = [command for block in BLOCK.findall(text) for command in IN_BLOCK.findall(block)]
    found = {
        " ".join(re.split(r"\s# ", command)[0].replace("\\\n", " ").split())
        for command in (*inside, *IN_TEXT.findall(BLOCK.sub("", text)))
    }
    return {command for command in found if not re.search(r" \| |…|\.\.\.|\{[a-z_]+\}", command)}


def text_of(path: Path) -> str:
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    return "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"])


FOUND = {command: path.name for path in (*PAGES, *LESSONS) for command in sorted(commands(text_of(path)))}
OTHERS = re.compile("--help|^bench gpu")  # bench gpu reads its own: tests/bench/test_one_command_measures_a_gpu.py
RUNNABLE = {command: page for command, page in FOUND.items() if " --" in command and not OTHERS.search(command)}


@pytest.fixture(scope="module")
def parser():
    """The command line of `minilib.__main__`, as it hands it to jsonargparse."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "auto_cli", lambda *given, **options: handed.append((given, options)))
        handed: list = []
        program.main([])
    given, options = handed[0]
    return capture_parser(lambda: auto_cli(*given, **options))


def understood(parser, command: str) -> None:
    parser.parse_args(named(normalised(shlex.split(command))))


def test_there_are_commands_to_look_at():
    assert len(RUNNABLE) > 15
    assert any("--texts" in command and "--seeds" in command for command in RUNNABLE)


@pytest.mark.parametrize("command", sorted(RUNNABLE))
def test_a_printed_command_is_understood(parser, command):
    try:
        understood(parser, command)
    except UsageError as error:
        raise AssertionError(f"{RUNNABLE[command]} prints `python -m minilib {command}`: {error}") from None


@pytest.mark.parametrize("command", sorted(RUNNABLE))
def test_a_printed_command_is_the_same_in_every_shell(command):
    """zsh, the shell of a Mac, takes brackets and braces outside quotes for names of files."""
    assert not re.search(r"[\[\]{}*?]", re.sub(r"'[^']*'", "", command))


@pytest.mark.parametrize("seeds", ["1,2,3", "1 2 3", "one"])
def test_seeds_that_are_no_list_are_refused_with_an_example(parser, seeds):
    with pytest.raises(UsageError, match=re.escape("give a list such as '[1,2]'.")):
        understood(parser, f"bench alignment --seeds '{seeds}'")
