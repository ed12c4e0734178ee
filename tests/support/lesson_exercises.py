"""What every lesson's exercises must show: all three lines of a check, and a hint of its own for each mistake.

A lesson's test file names its notebook, its solutions and the mistakes that learners typically make, in a subclass of
`ExercisesCanFail`; pytest runs the tests below for each of them.
"""

import re
from pathlib import Path

import nbformat
import torch
from support.lesson_rules import exercises

from minilib.teaching import checks

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def line_of(capsys, name, learner):
    """The one line that check `name` prints for `learner`."""
    torch.manual_seed(0)  # for the mistakes that forget their generator
    getattr(checks, f"check_{name}")(learner)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1, printed
    return printed.strip()


class ExercisesCanFail:
    """Tests of one lesson's exercises.

    Attributes:
        notebook: the file's name.
        solutions: exercise -> what solves it, from the library where the library has it.
        mistakes: `(exercise, learner, words of the hint that it must get)`.
        names: what the folded solutions find in the notebook's own cells.
        one_hint: exercises whose mistakes may share a hint.
    """

    notebook: str
    solutions: dict
    mistakes: list
    names: dict = {}  # noqa: RUF012
    one_hint: frozenset = frozenset()

    def pytest_generate_tests(self, metafunc):
        if "mistake" in metafunc.fixturenames:
            metafunc.parametrize("mistake", self.mistakes, ids=[f"{name}: {words}" for name, _, words in self.mistakes])
        elif "exercise" in metafunc.fixturenames:
            metafunc.parametrize("exercise", self.solutions)

    def cells(self, kind):
        lesson = nbformat.read(NOTEBOOKS / self.notebook, as_version=4)
        return [cell.source for cell in lesson.cells if cell.cell_type == kind]

    def test_every_exercise_of_the_lesson_is_tried_here(self):
        asked = re.findall(r"checks\.check_(\w+)\(", "\n".join(self.cells("code")))
        assert asked == list(self.solutions)
        assert len(exercises(nbformat.read(NOTEBOOKS / self.notebook, as_version=4))) == len(self.solutions)
        assert all(sum(name == wrong for wrong, _, _ in self.mistakes) >= 2 for name in self.solutions)

    def test_the_stub_of_the_notebook_is_not_attempted_yet(self, capsys, exercise):
        scope = {}
        exec(next(c for c in self.cells("code") if f"def {exercise}(" in c and "raise NotImpl" in c), scope)
        assert line_of(capsys, exercise, scope[exercise]).startswith("Not attempted yet: ")

    def test_the_library_passes(self, capsys, exercise):
        assert line_of(capsys, exercise, self.solutions[exercise]).startswith("Passed: ")

    def test_a_typical_mistake_gets_a_hint_of_its_own(self, capsys, mistake):
        name, learner, words = mistake
        line = line_of(capsys, name, learner)
        assert line.startswith("Not yet: "), line
        assert words in line, line
        assert line == line_of(capsys, name, learner)
        assert not re.search(r"0x[0-9a-f]{6,}|/\w+/\w+", line)  # no addresses, no paths

    def test_the_hints_of_one_exercise_differ(self, capsys):
        for name in self.solutions.keys() - self.one_hint:
            lines = [line_of(capsys, name, learner) for wrong, learner, _ in self.mistakes if wrong == name]
            assert len(set(lines)) == len(lines), lines

    def test_whatever_the_function_returns_or_raises_the_check_prints_one_line(self, capsys, exercise):
        def broken(*args):
            raise ZeroDivisionError("division by zero")

        for learner in (broken, lambda *args: None, lambda *args: "text", lambda *args: torch.zeros(2, 3, 4)):
            assert line_of(capsys, exercise, learner).startswith("Not yet: ")

    def test_the_solution_that_is_folded_in_the_notebook_passes(self, capsys, exercise):
        blocks = re.findall(r"```python\n(.*?)```", "\n".join(self.cells("markdown")), re.DOTALL)
        scope = {"torch": torch, **self.names}
        exec(next(block for block in blocks if f"def {exercise}(" in block), scope)
        assert line_of(capsys, exercise, scope[exercise]).startswith("Passed: ")
