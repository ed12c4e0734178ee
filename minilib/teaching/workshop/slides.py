"""Slides of a route: the cells that are tagged `slide`, in the order of its plan, as one HTML file that needs nothing.

A slide is a screen that the page snaps to; keys, wheel and touch turn them, and printing gives one a sheet. No script
and no address is in the file, so it also works where there is no network. (nbconvert's own slides load reveal.js,
MathJax and more from elsewhere; of nbconvert we take the Markdown.) Formulas are drawn by `formulas`.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import jinja2
import nbformat
from markupsafe import Markup
from nbformat import NotebookNode

from minilib.common import write_text
from minilib.teaching.workshop import formulas
from minilib.teaching.workshop.exercises import lesson_paths
from minilib.teaching.workshop.plan import Row, clock, pieces, route_named, rows

TAG = "slide"
MOST_LINES, BY_A_PICTURE = 14, 4  # lines of code that can be read from the last row, alone and above a picture
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)


def write(route: str, path: Path) -> int:
    """Write the slides of the route named `route`; how many there are."""
    found = route_named(route)
    made = list(slides(rows(found)))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((Path(__file__).parent / "slides.html").read_text(encoding="utf-8"))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, template.render(title=found["title"], slides=made))
    return len(made)


def slides(planned: list[Row]) -> Iterator[dict[str, str]]:
    """{"body", "when"} of every slide: a row without tagged cells still shows what happens now."""
    lessons = {number: nbformat.read(path, as_version=4) for number, path in lesson_paths().items()}
    now = 0
    for row in planned:
        when = f"{clock(now)} to {clock(now + row.minutes)}, {row.who}"
        bodies = list(_bodies(lessons[row.lesson], row.parts)) if row.lesson else []
        plain = re.sub(r"\[(.*?)\]\(.*?\)", r"lesson \1", row.what)
        for body in bodies or [html(f"## {plain}\n\n{row.minutes} minutes")]:
            yield {"body": body, "when": when}
        now += row.minutes


def _bodies(lesson: NotebookNode, parts: tuple[str, ...]) -> Iterator[Markup]:
    for name, cell, text, _ in pieces(lesson):
        if name not in parts or TAG not in cell.metadata.get("tags", []):
            continue
        if cell.cell_type == "markdown" and text.strip():
            yield html(text)
        elif cell.cell_type == "code":
            yield _code(cell)


def html(text: str) -> Markup:
    """Markdown of a lesson as HTML, its formulas drawn; links lose their addresses, which a slide cannot follow."""
    from nbconvert.filters import markdown2html

    drawn: list[str] = []

    def draw(formula: re.Match) -> str:
        picture = formulas.image(formula[1] or formula[2])
        drawn.append(f"<span class='block'>{picture}</span>" if formula[1] else picture)
        return f"FORMULA{len(drawn) - 1}END"

    code = CODE.findall(text)
    without = FORMULA.sub(draw, CODE.sub("CODE\0", text))
    for block in code:
        without = without.replace("CODE\0", block, 1)
    page = markdown2html(re.sub(r"(?<!!)\[([^\]]*)\]\([^)\s]*\)", r"\1", without))
    page = re.sub(r"<a class=\"anchor-link\".*?</a>", "", page)
    return Markup(re.sub(r"FORMULA(\d+)END", lambda number: drawn[int(number[1])], page))


def _code(cell: NotebookNode) -> Markup:
    """A code cell: its pictures, what it prints, and its code where that is short."""
    most = BY_A_PICTURE if any("image/png" in output.get("data", {}) for output in cell.outputs) else MOST_LINES
    short = len(cell.source.splitlines()) <= most
    shown = Markup("<pre class='code'>{}</pre>").format(cell.source) if short else Markup()
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/png" in data:
            alt = output.metadata.get("image/png", {}).get("alt", "")
            shown += Markup('<img class="figure" alt="{}" src="data:image/png;base64,{}">').format(
                alt, data["image/png"]
            )
        elif text := output.get("text", "") or data.get("text/plain", ""):
            shown += Markup("<pre>{}</pre>").format(text)
    return shown
