"""The minute plan of a route: which parts of which lessons, how long each takes by the rule of `refresh`, and breaks.

A route is a list of rows in book/workshop/routes.yaml. A row shows sections of a lesson (by their headings), gives an
exercise to the learners, or has minutes of its own: a break, questions. Times are computed, never written by hand:
a section takes what its prose and code take to read, an exercise the minutes in its box, the reading of its task and
of its folds. Each row is rounded up to whole minutes.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode

from minilib.common import write_text
from minilib.teaching.refresh import BOX, FOLD, seconds
from minilib.teaching.workshop.exercises import NOTEBOOKS, lesson_paths

FOLDER = NOTEBOOKS.parent / "book" / "workshop"
MARKS = ("<!-- plan: {} -->", "<!-- end of plan -->")


@dataclass(frozen=True)
class Row:
    """One line of a plan: who is busy ("teacher", "learners" or "all"), with what, for how long, in which parts."""

    who: str
    what: str
    minutes: int
    lesson: str = ""
    parts: tuple[str, ...] = ()


def read_routes() -> dict[str, dict]:
    """Name of a route -> its title, minutes, rows and slides."""
    path = FOLDER / "routes.yaml"
    if not path.is_file():
        raise ValueError(f"{path} is no file: the routes need the repository, run the command from a clone of it.")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def route_named(name: str) -> dict:
    """One route; ValueError that lists all when there is none of that name."""
    routes = read_routes()
    if name not in routes:
        raise ValueError(f"route is {name!r}: choose one of {', '.join(routes)}.")
    return routes[name]


def pieces(lesson: NotebookNode) -> Iterator[tuple[str, NotebookNode, str, float]]:
    """(part, cell, text, seconds): a lesson cut at its headings. "Exercise 1" is a part; texts are without folds."""
    section = name = "Overview"
    for cell in lesson.cells:
        if cell.cell_type == "code":
            yield name, cell, cell.source, seconds("", cell.source)
            continue
        for piece in re.split(r"^(?=#{2,3} )", cell.source, flags=re.MULTILINE):
            if heading := re.match(r"#{2,3} (.+)", piece):
                exercise = re.match(r"Exercise \d+", heading[1])
                name = exercise[0] if exercise else heading[1]
                section = section if exercise else name
            folds, text = "\n".join(FOLD.findall(piece)), FOLD.sub("", piece)
            if folds and name.startswith("Exercise"):  # what follows its folds belongs to the section again
                yield name, cell, "", seconds(folds)
                name = section
            yield name, cell, text, 60 * sum(map(int, BOX.findall(piece))) + seconds(text)


def parts(lesson: NotebookNode) -> dict[str, float]:
    """Seconds of every part of a lesson: its sections, by their headings, and its exercises."""
    found: dict[str, float] = {}
    for name, _, _, taken in pieces(lesson):
        found[name] = found.get(name, 0.0) + taken
    return found


def rows(route: dict) -> list[Row]:
    """The rows of a route with their minutes; ValueError for a part that the lesson does not have."""
    lessons = {number: nbformat.read(path, as_version=4) for number, path in lesson_paths().items()}
    return [_row(entry, lessons) for entry in route["rows"]]


def _row(entry: dict, lessons: dict[str, NotebookNode]) -> Row:
    if "lesson" not in entry:
        return Row("all", entry["what"], entry["minutes"])
    number, exercise = entry["lesson"], entry.get("exercise")
    known, chosen = parts(lessons[number]), (f"Exercise {exercise}",) if exercise else tuple(entry["sections"])
    if missing := [part for part in chosen if part not in known]:
        raise ValueError(f"lesson {number} has no part {missing[0]!r}: choose from {', '.join(known)}.")
    link = f"[{number}](../../notebooks/{lesson_paths()[number].name})"
    words = f"exercise {exercise}, {_title(lessons[number], exercise)}" if exercise else "; ".join(chosen)
    minutes = math.ceil(sum(known[part] for part in chosen) / 60)
    return Row("learners" if exercise else "teacher", f"{link}: {words}", minutes, number, chosen)


def _title(lesson: NotebookNode, exercise: int) -> str:
    text = "\n".join(cell.source for cell in lesson.cells if cell.cell_type == "markdown")
    return re.search(rf"^### Exercise {exercise}\. (.+)$", text, re.MULTILINE)[1]


def table(planned: list[Row]) -> str:
    """The plan as Markdown, with the minute at which each row begins."""
    lines, now = ["| From | Minutes | Who | What |", "|---|---|---|---|"], 0
    for row in planned:
        lines.append(f"| {clock(now)} | {row.minutes} | {row.who} | {row.what} |")
        now += row.minutes
    learners = sum(row.minutes for row in planned if row.who == "learners")
    busy = sum(row.minutes for row in planned if row.who != "all")
    return "\n".join(
        [*lines, "", f"{now} minutes in all. Learners work for {learners} of the {busy} minutes of lessons."]
    )


def clock(minutes: int) -> str:
    """Hours and minutes since the beginning: 1:05."""
    return f"{minutes // 60}:{minutes % 60:02d}"


def updated(page: str) -> str:
    """The page with every plan between its marks written anew."""
    for name, route in read_routes().items():
        begin, end = MARKS[0].format(name), MARKS[1]
        if begin not in page:
            raise ValueError(f"the page has no mark {begin}: add it, and {end} below it.")
        before, _, after = page.partition(begin)
        page = f"{before}{begin}\n\n{table(rows(route))}\n\n{end}{after.partition(end)[2]}"
    return page


def write(page: Path = FOLDER / "routes.md") -> None:
    """Write all plans into the page of routes."""
    write_text(page, updated(page.read_text(encoding="utf-8")))
