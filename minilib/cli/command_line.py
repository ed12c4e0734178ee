"""A command line with manners: dashes and underscores alike, "did you mean", and one line for each error.

jsonargparse makes the flags, reads the YAML of `--config` and checks types; its messages of several lines are said
anew here, by the names that the user has typed.
"""

from __future__ import annotations

import locale
import math
import os
import re
from argparse import _SubParsersAction
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser

from minilib.cli.settings import ALIASES

TYPES = {"int": "a whole number", "float": "a finite number", "bool": "true or false", "str": "a text"}
NUMBERS = ("tuple", "collections.abc.Sequence", "collections.abc.Sequence[int]")
TYPES |= dict.fromkeys(NUMBERS, "a list such as '[1,2]'") | {"dict[str, int]": "a table such as '{1000: 8}'"}
# In quotes, since a shell may read brackets; VALUE is what was given.
TYPES |= {"list[int]": "a list such as '[96,224]'", "list[str]": "a list such as '[\"VALUE\"]'"}
KEY = re.compile(r'^Parser key "(?P<key>[^"]*)":\s*(?P<rest>.*)$', re.DOTALL)
EXPECTED = re.compile(
    r"Expected an? (?:<class '(?P<kind>[^']*)'>|(?P<other>[^.]*))\. Got value: (?P<value>.*)$", re.DOTALL
)
UNION = re.compile(r"Subtypes: \[(?P<kinds>.*?)\]\n.*Given value: (?P<value>.*)$", re.DOTALL)


class UsageError(ValueError):
    """A command line that cannot be understood."""


def normalised(arguments: list[str]) -> list[str]:
    """The same flags with underscores: --batch-size=3 becomes --batch_size=3."""
    return [re.sub(r"^--[^=]+", lambda flag: "--" + flag[0][2:].replace("-", "_"), a) for a in arguments]


class Parser(ArgumentParser):
    """Shorter names for some flags, no abbreviations, and errors in one line."""

    arguments: tuple[str, ...] = ()  # what the command line was, for messages

    def __init__(self, *args, **options):
        super().__init__(*args, **{"allow_abbrev": False} | options)

    def parse_args(self, args=None, *rest, **options):
        """jsonargparse's, after a look at the files of --config."""
        Parser.arguments = tuple(args or ())
        _check_filled(Parser.arguments)
        for flag, value in _configs(Parser.arguments):
            _check_config(flag, value, self._reached())
        found = super().parse_args(args, *rest, **options)
        for key, value in list(found.items()):
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"{key.split('.')[-1]} is {value}: give a finite number.")
            if isinstance(value, (str, Path)) and str(value).startswith("~/"):  # no shell reads --output=~/x, nor YAML
                found[key] = type(value)(os.path.expanduser(value))
        return found

    def add_argument(self, *names, **options):
        shorter = (f"--{ALIASES[name[2:]]}" for name in names if name[2:] in ALIASES)
        return super().add_argument(*names, *shorter, **options)

    def error(self, message: str, ex: Exception | None = None):
        raise UsageError(_said(message, self._reached())) from None

    def _reached(self) -> _Reached:
        """The parser of the command that the line names, as far as its commands are known."""
        parser = self
        for argument in Parser.arguments:
            parser = _commands(parser).get(argument, parser)
        name = parser.prog.replace(" [options]", "").split()[-1]
        empty = [action.dest for action in parser._actions if action.default is None]
        return _Reached(name, _flags(parser), list(_commands(parser)), empty)


class _Reached:
    """A command, its flags, its own commands, and the settings that may be empty."""

    def __init__(self, name: str, flags: list[str], commands: list[str], empty: list[str]):
        self.name, self.flags, self.commands, self.empty = name, flags, commands, empty


def _commands(parser: ArgumentParser) -> dict[str, ArgumentParser]:
    return next((a.choices for a in parser._actions if isinstance(a, _SubParsersAction)), {})


def _flags(parser: ArgumentParser) -> list[str]:
    names = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
    return [name for name in names if not name.endswith("+")]  # jsonargparse's own way to append to a list


def _said(message: str, reached: _Reached) -> str:
    """jsonargparse's message in one sentence that ends with what to do."""
    if message.startswith("unrecognized arguments: "):
        first = message.split(": ", 1)[1].split()[0]
        name = first.split("=")[0]
        if not name.startswith("-"):
            return f"{first!r} belongs to no flag: values follow their flags, as in --output {first}."
        return f"{name} is no flag of {reached.name}: {_nearest(name, reached.flags)}"
    if found := re.search(r"invalid choice: '?(.*?)'? \(choose from", message):
        if not reached.commands:
            return f"{found[1]!r} stands before the command: begin with {reached.name}, its flags follow."
        return f"{found[1]!r} is no command: {_nearest(found[1], reached.commands, '')}"
    if found := re.search(r'subcommand" to be one of \{(.*)\}, but it was not provided', message):
        some = ", ".join(name for name in found[1].split(",") if name.strip() != "...")  # jsonargparse names a few
        return f"no command is given: choose one such as {some}, or see --help."
    if found := re.match(r"argument (--\w+).*: expected", message):
        return f"{found[1]} has no value: give one behind it."
    if found := re.match(r"(?:Subcommand '.*' does not accept o|O)ption '(.*?)'", message):
        return f"{found[1]!r} is no setting of {reached.name}: {_nearest(found[1], reached.flags, dashes='')}"
    if found := KEY.match(message):
        return _wrong_value(found["key"], found["rest"])
    return f"{' '.join(message.split())}: python -m minilib --help lists what there is."


def _wrong_value(key: str, rest: str) -> str:
    if union := UNION.search(rest):
        kinds = re.split(r",\s*(?![^\[]*\])", re.sub(r"<class '(\w+)'>", r"\1", union["kinds"]))
        return _given(key, union["value"].strip(), [kind for kind in kinds if kind != "NoneType"])
    if found := EXPECTED.search(rest):
        return _given(key, found["value"].strip(), [found["kind"]])
    return f"{key}: {' '.join(rest.split())}: give another value."


def _given(key: str, value: str, kinds: list[str]) -> str:
    wanted = " or ".join(TYPES.get(kind, kind) for kind in kinds).replace("VALUE", value)
    return f"{key} is {value!r:.80}: give {wanted}."


def _nearest(name: str, known: Iterable[str], dashes: str = "--") -> str:
    bare = {flag.removeprefix("--"): flag for flag in known}
    close = get_close_matches(name.lstrip("-").replace("-", "_"), bare, n=1)
    return f"did you mean {dashes}{close[0]}?" if close else f"choose from {', '.join(sorted(bare))}."


def _check_filled(arguments: tuple[str, ...]) -> None:
    """UsageError for a flag whose value is empty: as a path it would be the folder that the command runs in."""
    for before, argument in zip(("", *arguments), arguments):
        if not argument.strip() or re.fullmatch(r"--\w+=\s*", argument):
            name = (argument.strip() or before).strip("-= ") or "an argument"
            raise UsageError(f"{name} is empty: give a value, or leave the flag out.")


# The files of --config


def _configs(arguments: tuple[str, ...]) -> Iterable[tuple[str, str]]:
    for place, argument in enumerate(arguments):
        if argument == "--config" and place + 1 < len(arguments):
            yield argument, arguments[place + 1]
        elif argument.startswith("--config="):
            yield "--config", argument.split("=", 1)[1]


def _check_config(flag: str, value: str, reached: _Reached) -> None:
    """UsageError, naming file and key, for a file that holds no settings of the command."""
    path = Path(value)
    if not value or not path.is_file():
        raise UsageError(f"{flag} {value!r} is no file: give the path of a YAML file of settings.")
    try:
        text = path.read_text(encoding="utf-8")
        found = yaml.load(text, _Unique)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8.") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or type(error).__name__).split())
        raise UsageError(f"{path}{where} is no plain YAML ({problem}): fix the file.") from error
    if not text.isascii() and (system := locale.getencoding().lower()) not in ("utf-8", "utf8"):
        raise UsageError(f"{path} holds letters beyond ASCII, and this system reads it as {system}: set PYTHONUTF8=1.")
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no settings: write lines such as `steps: 100`.")
    known = {name.removeprefix("--") for name in reached.flags} | set(reached.commands)
    for key, entry in found.items():
        if key not in known:
            raise UsageError(f"{path} has {key!r}, no setting of {reached.name}: {_nearest(str(key), known, '')}")
        if entry == "" or (entry is None and key not in reached.empty):
            raise UsageError(f"{path} has nothing as {key}: give a value, or leave the line out.")


class _Unique(yaml.SafeLoader):
    """Plain YAML in which no key comes twice."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                mark = node.value[place][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} comes twice", mark)
        return super().construct_mapping(node, deep)
