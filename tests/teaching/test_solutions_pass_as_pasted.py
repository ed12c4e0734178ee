"""Every folded solution, pasted over its stub, passes the check in the cell below it; every untouched stub says so.

The quick tests run an exercise in this process with only those cells before it that it uses. With MINILIB_SOLVED=1
(`make test-solutions`) each lesson is solved as a whole and run from top to bottom in a kernel of its own: every check
passes, and every other cell shows what the unsolved lesson shows. The mistakes, with a hint of their own each, are in
the files test_..._checks_can_fail.py.
"""

import ast
import os
import re

import nbformat
import pytest
from nbclient import NotebookClient
from support.lesson_rules import exercises, tags
from support.solved_lessons import exercises_of, labs, lessons, run, solved

from minilib.teaching.workshop.exercises import needed

LESSONS = {path.stem: nbformat.read(path, as_version=4) for path in lessons()}
LABS = {f"lab {path.stem}": nbformat.read(path, as_version=4) for path in labs()}
BOTH = LESSONS | LABS
EXERCISES = [(stem, exercise) for stem, notebook in BOTH.items() for exercise in exercises_of(notebook)]
# Lessons of which not every fold holds a whole function yet; the list only ever gets shorter.
IN_WORK: set[str] = set()
every_exercise = pytest.mark.parametrize(
    ("stem", "exercise"),
    EXERCISES,
    ids=[f"{stem[:6] if stem in LABS else stem[:2]}-{exercise.name}" for stem, exercise in EXERCISES],
)


@every_exercise
def test_the_folded_solution_passes_as_pasted(stem, exercise):
    if stem in IN_WORK:
        pytest.skip(f"the folds of {stem} are not all whole functions yet")
    if stem.startswith("05"):
        pytest.importorskip("triton", reason="lesson 05 needs triton, which this machine does not have")
    assert exercise.solution, "the fold holds no block of Python"
    assert f"def {exercise.name}(" in exercise.solution, "the fold shows no whole function"
    line = run(BOTH[stem], exercise, exercise.solution)
    assert line.startswith("Passed: "), line


@every_exercise
def test_the_stub_as_it_stands_is_not_attempted_yet(stem, exercise):
    assert run(BOTH[stem], exercise, exercise.stub.source).startswith("Not attempted yet: ")


@every_exercise
def test_a_function_that_returns_nothing_gets_one_line_in_the_notebook(stem, exercise):
    line = run(BOTH[stem], exercise, exercise.stub.source, learner=lambda *args, **kwargs: None)
    assert line.startswith("Not yet: "), line
    assert "\n" not in line


@pytest.mark.parametrize("stem", BOTH)
def test_every_exercise_is_found_and_its_cell_does_nothing_but_check(stem):
    """So what a mistake is told by `checks.check_...` is what it is told in the notebook."""
    found = exercises_of(BOTH[stem])
    assert len(found) == len(exercises(BOTH[stem]))
    assert [e.check.source for e in found] == [f"checks.check_{e.name}({e.name})" for e in found]


def test_only_what_is_used_is_run():
    source = "import a, b\nx = a.f()\ny = 2\nx[0] = b\nz = y\ndef g(k):\n    return x + k"
    kept = needed(ast.parse(source).body, "g(1)")
    assert [ast.unparse(s).splitlines()[0] for s in kept] == ["import a, b", "x = a.f()", "x[0] = b", "def g(k):"]


@pytest.mark.skipif(os.environ.get("MINILIB_SOLVED") != "1", reason="whole lessons run under MINILIB_SOLVED=1")
@pytest.mark.parametrize("stem", [stem for stem in LESSONS if stem not in IN_WORK])
def test_a_solved_lesson_runs_to_its_end_and_changes_nothing_else(stem):
    lesson = solved(LESSONS[stem])
    filled = exercises_of(LESSONS[stem])
    checked = {id(exercise.check) for exercise in filled}
    names = {name for exercise in filled for name in re.findall(r"^def (\w+)\(", exercise.stub.source, re.M)}
    own = re.compile(rf"\b({'|'.join(names)})\b")  # a cell that draws what the learner wrote, kernels too
    NotebookClient(lesson, timeout=900, resources={"metadata": {"path": lessons()[0].parent}}).execute()
    for old, new in zip(LESSONS[stem].cells, lesson.cells, strict=True):
        if id(old) in checked:
            assert said(new).startswith("Passed: "), said(new)
        elif old.cell_type == "code" and "nbval-ignore-output" not in tags(old) and not own.search(old.source):
            assert said(new) == said(old), f"cell {old.execution_count} shows something else"


def said(cell):
    kept = [output for output in cell.outputs if output.get("name") != "stderr"]
    return "".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in kept)
