"""Lessons with their exercises filled in: the folded solutions, and what a cell needs from the cells before it.

An exercise is a stub that raises NotImplementedError, the cell with its check and a fold "Solution and why". A solved
copy holds the first code block of that fold in place of the stub, exactly as a learner would paste it. To run a whole
lesson for one exercise takes minutes for nothing; `run` executes of the cells before only the statements that define
what the exercise uses, and what those use.
"""

import ast
import contextlib
import copy
import io
import itertools
import re
from dataclasses import dataclass

import nbformat
import torch
from support.lesson_rules import NOTEBOOKS, exercises

from minilib.teaching.workshop.exercises import execute, needed

FOLD = "<summary>Solution and why</summary>"


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


def labs():
    return sorted(NOTEBOOKS.glob("labs/[0-9][0-9]_*.ipynb"))


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
        execute("\n".join(ast.unparse(s) for s in needed(statements, answer + "\n" + exercise.check.source)), scope)
    execute(answer, scope)
    if learner is not None:
        scope[exercise.name] = learner
    with contextlib.redirect_stdout(printed):
        execute(exercise.check.source, scope)
    return printed.getvalue().strip()


def _statements(source):
    return ast.parse(source).body
