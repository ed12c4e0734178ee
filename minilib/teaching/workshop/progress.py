"""A table of who has solved which exercise, from a folder of learners' notebooks; as lines, as HTML and as CSV.

    FOLDER/ada/03_add_logs_of_sums.ipynb     learner ada, lesson 03; folders in between do not matter
    FOLDER/ada_03.ipynb                      the same; FOLDER/ada_03_anything.ipynb as well

Nothing is sent anywhere. How a notebook is run is told in `sandbox`, how it is marked in `marking`.
"""

import csv
import io
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import jinja2

from minilib.common import write_text
from minilib.teaching.workshop import sandbox
from minilib.teaching.workshop.exercises import exercise_names

NUMBERED = re.compile(r"^(\d\d)(?:[_ -].*)?\.ipynb$")
NAMED = re.compile(r"^(.+?)[_ -](\d\d)(?:[_ -].*)?\.ipynb$")
REPORTS = ("progress.csv", "progress.html")
LAYOUT = "give a folder with NAME/NN_*.ipynb or NAME_NN.ipynb, NN being a lesson such as 03"


@dataclass(frozen=True)
class Sheet:
    """One notebook of one learner, and how its exercises came out: name -> (status, line)."""

    learner: str
    lesson: str
    file: str
    marks: dict[str, tuple[str, str]]

    @property
    def passed(self) -> int:
        return sum(status == "passed" for status, _ in self.marks.values())

    @property
    def score(self) -> str:
        return f"{self.passed} of {len(self.marks)}"


def found(folder: Path) -> tuple[list[tuple[str, str, Path]], list[str]]:
    """(learner, lesson, file) of every notebook, and the names of notebooks that belong to no learner or lesson."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: {LAYOUT}.")
    notebooks, left = [], []
    for path in sorted(folder.rglob("*.ipynb")):
        inside = path.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts):
            continue  # .ipynb_checkpoints
        named, numbered = NAMED.match(inside.name), NUMBERED.match(inside.name)
        if len(inside.parts) > 1 and numbered:
            learner, lesson = inside.parts[0], numbered[1]
        elif len(inside.parts) == 1 and named:
            learner, lesson = named.groups()
        else:
            learner, lesson = "", ""
        if exercise_names(lesson):
            notebooks.append((learner, lesson, path))
        else:
            left.append(str(inside))
    if not notebooks:
        raise ValueError(f"{folder} has no notebook of a learner: {LAYOUT}.")
    return notebooks, left


def marked(
    notebooks: list[tuple[str, str, Path]], folder: Path, *, seconds: float, memory: float, workers: int = 1,
    done: Callable[[Sheet], None] = lambda sheet: None,
) -> list[Sheet]:  # fmt: skip
    """A sheet for each notebook, `workers` of them at a time; `done` hears of each one as it comes."""

    def sheet(notebook: tuple[str, str, Path]) -> Sheet:
        learner, lesson, path = notebook
        marks = sandbox.mark_notebook(path, exercise_names(lesson), seconds=seconds, memory=memory)
        return Sheet(learner, lesson, path.relative_to(folder).as_posix(), marks)

    sheets, pool = {}, ThreadPoolExecutor(workers)
    waiting = {pool.submit(sheet, notebook): number for number, notebook in enumerate(notebooks)}
    try:
        for each in as_completed(waiting):
            sheets[waiting[each]] = each.result()
            done(each.result())
    finally:  # an interrupt waits for nobody who has not begun
        pool.shutdown(wait=len(sheets) == len(notebooks), cancel_futures=True)
    return [sheets[number] for number in sorted(sheets)]


def line(sheet: Sheet) -> str:
    """One notebook in one line: the score, and what has not passed."""
    open_ = [f"{name}: {status}" for name, (status, _) in sheet.marks.items() if status != "passed"]
    return printable(f"{sheet.learner}  {sheet.lesson}  {sheet.score}" + (f"  ({', '.join(open_)})" if open_ else ""))


def lines_of_exercises(sheet: Sheet) -> list[str]:
    """Every exercise of one notebook in a line of its own, for strict marking."""
    wide = max(map(len, sheet.marks))
    return [printable(f"    {name:{wide}}  {status}: {text}") for name, (status, text) in sheet.marks.items()]


def printable(text: str) -> str:
    """The text without what would steer a terminal."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def write_csv(sheets: list[Sheet], path: Path) -> None:
    """One row for each exercise; a cell that a spreadsheet would take for a formula begins with an apostrophe."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["learner", "lesson", "file", "exercise", "status", "line"])
    for sheet in sheets:
        for name, (status, told) in sheet.marks.items():
            cells = (sheet.learner, sheet.lesson, sheet.file, name, status, printable(told))
            rows.writerow([f"'{cell}" if cell[:1] in tuple("=+-@\t\r") and cell else cell for cell in cells])
    write_text(path, text.getvalue())


def write_html(sheets: list[Sheet], left: list[str], protection: str, path: Path) -> None:
    """A page with a table for each lesson: learners down, exercises across."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((Path(__file__).parent / "progress.html").read_text(encoding="utf-8"))
    lessons = {number: [s for s in sheets if s.lesson == number] for number in sorted({s.lesson for s in sheets})}
    write_text(path, template.render(lessons=lessons, left=left, protection=protection))


def progress(folder: Path, output: Path, *, seconds: float, memory: float, workers: int, strict: bool) -> list[Sheet]:
    """Mark all notebooks of `folder`, print a line for each, write progress.html and progress.csv to `output`."""
    notebooks, left = found(folder)
    output.mkdir(parents=True, exist_ok=True)
    for name in REPORTS:  # a place that cannot be written to is told before the marking, which takes minutes
        with (output / name).open("a"):
            pass
    told = sandbox.protection().told
    print(f"{len(notebooks)} notebooks, each in a process of its own on a copy; {told}", flush=True)

    sheets: list[Sheet] = []

    def say(sheet: Sheet) -> None:
        sheets.append(sheet)
        print("\n".join([line(sheet), *(lines_of_exercises(sheet) if strict else [])]), flush=True)

    try:
        marked(notebooks, folder, seconds=seconds, memory=memory, workers=workers, done=say)
        for name in left:
            print(printable(f"not looked at: {name} ({LAYOUT})"))
    finally:  # Ctrl-C keeps the marks so far
        sheets.sort(key=lambda sheet: sheet.file)
        if sheets:
            write_csv(sheets, output / REPORTS[0])
            write_html(sheets, left, told, output / REPORTS[1])
    total = sum(len(sheet.marks) for sheet in sheets)
    print(f"{sum(sheet.passed for sheet in sheets)} of {total} exercises passed; {output / 'progress.html'} and .csv")
    return sheets
