"""Lessons with their exercises filled in: the folded solutions, and what a cell needs from the cells before it.

An exercise is a stub that raises NotImplementedError, the cell with its check and a fold "Solution and why". A solved
copy holds the first code block of that fold in place of the stub, exactly as a learner would paste it. To run a whole
lesson for one exercise takes minutes for nothing; `run` executes of the cells before only the statements that define
what the exercise uses, and what those use.
"""

import ast
import builtins
import contextlib
import copy
import io
import itertools
import linecache
import re
import symtable
from dataclasses import dataclass

import nbformat
import torch
from support.lesson_rules import NOTEBOOKS, exercises

FOLD = "<summary>Solution and why</summary>"
_NUMBERS = itertools.count()


@dataclass
class Exercise:
    """One exercise: its heading's number, the function's name, its stub and check as cells, and the folded solution."""

    number: int
    name: str
    stub: nbformat.NotebookNode
    check: nbformat.NotebookNode
    solution: str | None


def lessons():
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def exercises_of(lesson):
    """The exercises of a notebook that is read, in order."""
    found = []
    for cells in exercises(lesson):
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        stub = next(c for c in cells if c.cell_type == "code" and "raise NotImplementedError" in c.source)
        check = next(c for c in cells if c.cell_type == "code" and re.search(r"^checks\.check_", c.source, re.M))
        block = re.search(r"```python\n(.*?)```", text.partition(FOLD)[2], re.DOTALL)
        number = int(re.search(r"^### Exercise (\d+)\. ", text, re.M)[1])
        name = re.search(r"^checks\.check_(\w+)\(", check.source, re.M)[1]
        found.append(Exercise(number, name, stub, check, block and block[1].rstrip()))
    return found


def solved(lesson):
    """A copy of the lesson in which every stub is replaced by its folded solution."""
    lesson = copy.deepcopy(lesson)
    for exercise in exercises_of(lesson):
        exercise.stub.source = exercise.solution
    return lesson


def run(lesson, exercise, answer, learner=None):
    """What the check of `exercise` prints when `answer`, source code, stands in the stub's cell.

    With `learner`, a function, the cell's own function is replaced by it before the check runs.
    """
    before = itertools.takewhile(lambda cell: cell is not exercise.stub, lesson.cells)
    statements = [s for cell in before if cell.cell_type == "code" for s in _statements(cell.source)]
    scope = {"__name__": "__main__"}
    torch.manual_seed(0)
    printed = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()):
        _execute("\n".join(ast.unparse(s) for s in needed(statements, answer + "\n" + exercise.check.source)), scope)
    _execute(answer, scope)
    if learner is not None:
        scope[exercise.name] = learner
    with contextlib.redirect_stdout(printed):
        _execute(exercise.check.source, scope)
    return printed.getvalue().strip()


def needed(statements, source):
    """Of these statements, in order, the ones that define a name that `source` uses, or that a needed one uses."""
    wanted, kept = names_of(source)[1], []
    for statement in reversed(statements):
        bound, used = names_of(ast.unparse(statement))
        if (bound | _changed(statement)) & wanted:
            kept.append(statement)
            whole = isinstance(statement, ast.Assign | ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom)
            wanted = (wanted - bound if whole else wanted) | used
    return kept[::-1]


def names_of(source):
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


def _statements(source):
    return ast.parse(source).body


def _changed(statement):
    """The names of what a statement changes by an index or an attribute."""
    places = [n for n in ast.walk(statement) if isinstance(n, ast.Subscript | ast.Attribute)]
    stored = [place.value for place in places if isinstance(place.ctx, ast.Store)]
    return {child.id for value in stored for child in ast.walk(value) if isinstance(child, ast.Name)}


def _execute(source, scope):
    """Run a cell; its text stays readable for those who ask for the source of a function, as Triton does."""
    name = f"lesson_cell_{next(_NUMBERS)}"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    exec(compile(source, name, "exec"), scope)
