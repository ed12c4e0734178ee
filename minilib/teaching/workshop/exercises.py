"""Find the exercises of a lesson, and of a notebook only those statements that define one function.

A learner's notebook is never run whole. Of its cells we execute the statements that bind the exercise's function, and
those that bind what these use: imports, numbers, helper functions. What a cell prints, deletes or redefines besides
plays no part.

The tests of the folded solutions use the same selection (tests/support/solved_lessons.py).
"""

import ast
import builtins
import functools
import itertools
import json
import linecache
import re
import symtable
from pathlib import Path
from typing import Any

from minilib.teaching.checks import EXERCISES

NOTEBOOKS = Path(__file__).parents[3] / "notebooks"
CHECK = re.compile(r"^checks\.check_(\w+)\(", re.MULTILINE)
LARGEST_NOTEBOOK = 20_000_000  # bytes that a notebook to be marked may have
_NUMBERS = itertools.count()


def lesson_paths() -> dict[str, Path]:
    """Number of a lesson, two digits, -> its notebook."""
    return {path.name[:2]: path for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}


@functools.cache
def exercise_names(number: str) -> list[str]:
    """The exercises of a lesson: in its order where the notebooks are there, else by name."""
    path = lesson_paths().get(number)
    if path is None:
        return EXERCISES.get(f"lesson{number}", "").split()
    return [name for source in code_cells(path) for name in CHECK.findall(source)]


def needed(statements: list[ast.stmt], source: str) -> list[ast.stmt]:
    """Of these statements, in order, the ones that define a name that `source` uses, or that a needed one uses."""
    wanted, kept = names_of(source)[1], []
    for statement in reversed(statements):
        bound, used = names_of(ast.unparse(statement))
        if (bound | _changed(statement)) & wanted:
            kept.append(statement)
            whole = isinstance(statement, ast.Assign | ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom)
            wanted = (wanted - bound if whole else wanted) | used
    return kept[::-1]


def names_of(source: str) -> tuple[set[str], set[str]]:
    """The names that a cell binds, and those that it uses, its functions' own variables left out."""
    top = symtable.symtable(source, "cell", "exec")
    bound = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    used = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced()}
    inner = list(top.get_children())
    while inner:
        table = inner.pop()
        inner += table.get_children()
        used |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
    return bound, used - set(dir(builtins))


def _changed(statement: ast.stmt) -> set[str]:
    """The names of what a statement changes by an index or an attribute."""
    places = [n for n in ast.walk(statement) if isinstance(n, ast.Subscript | ast.Attribute)]
    stored = [place.value for place in places if isinstance(place.ctx, ast.Store)]
    return {child.id for value in stored for child in ast.walk(value) if isinstance(child, ast.Name)}


def execute(source: str, scope: dict[str, Any]) -> None:
    """Run a cell; its text stays readable for those who ask for the source of a function, as Triton does."""
    name = f"lesson_cell_{next(_NUMBERS)}"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    exec(compile(source, name, "exec"), scope)


def code_cells(path: Path) -> list[str]:
    """The code cells of a notebook as plain Python: lines for the notebook itself (%magic, !shell) say nothing.

    Read as the JSON that a notebook is, since nbformat takes longer to import than an exercise takes to check.
    """
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return [_plain(source) for source in sources]


def _plain(source: str) -> str:
    if (timed := re.match(r"\s*%%(?:time|capture)\b.*\n?", source)) is not None:
        source = source[timed.end() :]
    if source.lstrip().startswith("%%"):
        return ""
    try:
        ast.parse(source)  # a line may begin with the sign of a remainder
    except (SyntaxError, ValueError):
        return re.sub(r"^(\s*)[%!?].*$", r"\1pass", source, flags=re.MULTILINE)
    return source


def function_of(cells: list[str], name: str) -> Any:
    """What the notebook binds to `name` last: None where it binds nothing; SyntaxError where that cell is no Python."""
    mine = re.compile(rf"^(def {name}\(|{name}\s*=|checks\.check_{name}\()", re.MULTILINE)
    last = max((number for number, source in enumerate(cells) if mine.search(source)), default=None)
    if last is None:
        return None
    statements = []
    for source in cells[: last + 1]:
        try:
            statements += ast.parse(source).body
        except (SyntaxError, ValueError):  # a cell with a slip matters where it holds the function
            if mine.search(source):
                raise
    scope: dict[str, Any] = {"__name__": "__main__"}
    execute("\n\n".join(ast.unparse(statement) for statement in needed(statements, name)), scope)
    return scope.get(name)
