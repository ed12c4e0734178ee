"""The report of a run: its document as tables, for the terminal (`plain`) and for the book (`markdown`).

The prose and the headings stand in `report.jinja`, with a macro for each section and for each whole document. A table
is built from rows, which are dicts, by a template: "method | s" over "{name} | {cpu[median]:.3f}", cells as
`str.format` knows them, with `bytes`, `ms`, `unit ms` and `thousands` besides. What a row lacks is a dash, so that a
document of an earlier version is still reported.
"""

import re
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from string import Formatter
from typing import Any

import jinja2

from minilib.teaching.memory import format_bytes

Row = dict[str, Any]
Table = Callable[[list[str], list[list[str]]], str]
FORMS = {"bytes": "bytes", "seconds": "unit ms", "error": ".1e"}  # of a target of the contrastive losses
SPECIAL = {
    "bytes": format_bytes,
    "ms": lambda seconds: f"{seconds * 1e3:,.2f}",
    "unit ms": lambda seconds: f"{seconds * 1e3:,.1f} ms",
    "thousands": lambda value: f"{value / 1e3:,.0f}",
    "equal": {True: "equal", False: "WRONG"}.get,
    "yes": {True: "yes", False: "NO", None: "not measured"}.get,
    "verdict": {True: "held", False: "missed", None: "not measured"}.get,
}


class _Cells(Formatter):
    def format_field(self, value: Any, spec: str) -> str:
        if isinstance(value, list):  # one after the other
            return ", ".join(self.format_field(each, spec) for each in value)
        return SPECIAL[spec](value) if spec in SPECIAL else format(value, spec)


def plain(header: list[str], rows: list[list[str]]) -> str:
    """Aligned columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.rjust(width) if k else cell.ljust(width) for k, (cell, width) in enumerate(zip(line, widths)))
        for line in lines
    )


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *rows])


def build(table: Table, header: str, line: str, rows: Iterable[Row]) -> str:
    """The table of the rows, each told in `line`; nothing where there are none."""

    def cell(template: str, row: Row) -> str:
        try:
            return _Cells().vformat(template, (), row).rstrip()
        except (KeyError, TypeError):  # a figure that is not there, or None
            return "-"

    cells = [[cell(template, row) for template in line.split(" | ")] for row in rows]
    return table(header.split(" | "), cells) if cells else ""


def section(name: str, document: Row, table: Table = markdown, *more: Any) -> str:
    """The macro `name` of report.jinja, told of the document; `more` are its other arguments."""
    tell = {"table": partial(build, table), "methods": _methods, "timed": _timed, "share": _share_of_others}
    tell |= {"per_element": _per_element, "forms": formed}
    text = getattr(_environment().get_template("report.jinja").make_module(tell), name)(document, *more)
    return re.sub(r"\n{3,}", "\n\n", str(text)).strip()  # sections that are empty leave no gap


def whole(name: str, document: Row, table: Table = markdown) -> str:
    """A whole document: a section with a line's end."""
    return section(name, document, table) + "\n"


contrastive, logps, step, prefix = (partial(whole, name) for name in ("contrastive", "logps", "step", "prefix"))


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent))
    environment.filters["bytes"] = format_bytes
    return environment


def formed(bars: list[Row]) -> list[Row]:
    """Targets of the contrastive losses, each with the form of its figures."""
    return [bar | {"form": FORMS.get(bar["kind"], ".3f" if bar["limit"] < 0.2 else ".2f")} for bar in bars]


def _timed(timing: Row) -> list[Row]:
    """The rows of one batch, each with the ratio to the dense way of its own loss."""
    return [row | {"name": name, "own": row["ratios"].get(row["dense"])} for name, row in timing["summary"].items()]


def _per_element(rows: list[Row]) -> list[Row]:
    return [row | {"each": row["peak"] / (row["batch"] * row["dim"])} for row in rows]


def _methods(document: Row) -> list[Row]:
    """A row for each timed method, with all that the document says of it."""
    about = {key: found for key, found in document.items() if isinstance(found, dict)}
    names = document[document.get("unit", "cpu")]
    return [{"name": name} | {key: found[name] for key, found in about.items() if name in found} for name in names]


def _share_of_others(document: Row) -> float:
    others = document["others"]
    if not isinstance(others, list):
        return others
    own = sum(sample["spent"] for this in document["rounds"] for sample in this.values())
    return sum(others) / (own + sum(others))  # an earlier version kept the CPU seconds of each round
