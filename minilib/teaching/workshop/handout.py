"""The handout: A4 pages with the formulas of the cheat sheet and the plan of a route, drawn by matplotlib.

matplotlib is installed with the library and draws the formulas itself, so neither a browser nor TeX is needed, and the
same sources give the same pages everywhere. Who cannot read a PDF finds the same in book/cheat_sheet.md and routes.md.
"""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from minilib.teaching.workshop.exercises import NOTEBOOKS
from minilib.teaching.workshop.formulas import drawable
from minilib.teaching.workshop.plan import clock, route_named, rows

CHEAT_SHEET = NOTEBOOKS.parent / "book" / "cheat_sheet.md"
SECOND_PAGE = "Preferences, and long answers"  # the heading of the cheat sheet that begins it
PAGE, MARGIN, LINE, SIZE = (8.27, 11.69), 0.55, 0.18, 8.5  # inches, inches, inches, points
BOTTOM = PAGE[1] - MARGIN  # where the lines of a page have to end, in inches from its top
COLUMNS = {
    2: (0.0, 0.33),
    3: (0.0, 0.09, 0.2),
    4: (0.0, 0.3, 0.48, 0.75),
}  # where a table's columns begin, of the width
MATHS = re.compile(r"\$([^$\n]+)\$")


def write(route: str, path: Path) -> int:
    """Write the handout of the route named `route`; how many pages it has: a plan that is too long gets a third one.

    ValueError when the lines of a page do not fit; a handout that is there already then stays as it is.
    """
    found = route_named(route)
    first, second = _halves(CHEAT_SHEET.read_text(encoding="utf-8"))
    first, plan = [("title", "Two memory walls, and how they fell"), *first], list(_plan(found))
    made = [_page(first), _page([*second, *plan])]
    if made[1][1] > BOTTOM:
        made[1:] = _page(second), _page(plan)
    for number, (figure, down) in enumerate(made, 1):
        if down > BOTTOM:
            raise ValueError(
                f"page {number} of the handout is {down:.1f} inches long: shorten the cheat sheet or the route."
            )
        figure.text(0.5, 0.3 / PAGE[1], f"{number} of {len(made)}", ha="center", size=SIZE - 1, color="#595959")
    path.parent.mkdir(parents=True, exist_ok=True)
    with PdfPages(path, metadata={"Title": f"minilib, handout: {found['title']}", "CreationDate": None}) as pages:
        for figure, _ in made:
            pages.savefig(figure)
        return pages.get_pagecount()


def _halves(text: str) -> tuple[list, list]:
    """The drawable lines of the cheat sheet, before and from the heading of the second page."""
    before, _, after = text.partition(f"## {SECOND_PAGE}\n")
    return list(_lines(before)), [("heading", SECOND_PAGE), *_lines(after)]


def _lines(text: str) -> Iterator[tuple[str, str | list[str]]]:
    """(kind, content) of Markdown: headings, rows of tables, lines of code, and text."""
    in_code = False
    for line in text.splitlines():
        if line.startswith("```"):
            in_code = not in_code
        elif in_code:
            yield "code", line
        elif line.startswith("## "):
            yield "heading", line[3:]
        elif line.startswith("|") and not re.match(r"\|[-|]+$", line):
            yield "row", [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
        elif line and not line.startswith(("#", "|", "One page to print.")):
            yield "text", line


def _plan(route: dict) -> Iterator[tuple[str, str | list[str]]]:
    now = 0
    yield "heading", f"The plan: {route['title'].lower()}"
    for row in rows(route):
        yield "row", [clock(now), f"{row.minutes} min", re.sub(r"\[(\d\d)\]\(.*?\)", r"lesson \1", row.what)]
        now += row.minutes


def _page(lines: list[tuple[str, str | list[str]]]) -> tuple[Figure, float]:
    """One page, and how many inches from its top the lines end."""
    figure = Figure(figsize=PAGE)
    down = MARGIN
    for kind, content in lines:
        down += _draw(figure, kind, content, down)
    return figure, down


def _draw(figure: Figure, kind: str, content: str | list[str], down: float) -> float:
    """Draw one line `down` inches from the top; the height that it takes."""
    cells = content if isinstance(content, list) else [content]
    begins = COLUMNS.get(len(cells), (0.0,))
    space = PAGE[0] - 2 * MARGIN
    ends = [*begins[1:], 1.0]
    sizes = {"title": 2 * SIZE, "heading": 1.35 * SIZE, "code": SIZE - 1.2}
    style = {"size": sizes.get(kind, SIZE), "va": "center", "family": "monospace" if kind == "code" else "sans-serif"}
    style["weight"] = "bold" if kind in ("title", "heading") else "normal"
    above = 0.6 * LINE if kind == "heading" else 0.0
    fitting = [[cell] if kind == "code" else _wrapped(cell, int((e - b) * space * 14.5)) for cell, b, e in
               zip(cells, begins, ends)]  # fmt: skip
    tall = 1.7 if kind == "row" and any(r"\frac" in cell or r"\sum" in cell for cell in cells) else 1.0
    height = LINE * (tall * max(map(len, fitting)) + {"title": 1.6, "heading": 0.5, "code": -0.1}.get(kind, 0.0))
    for part, begin in zip(fitting, begins):
        at = ((MARGIN + begin * space) / PAGE[0], 1 - (down + above + height / 2) / PAGE[1])
        figure.text(*at, "\n".join(part), linespacing=1.25 * tall, parse_math=kind != "code", **style)
    return above + height


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` letters, formulas kept whole and drawn as about half of their TeX."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text.replace("`", "").replace("**", ""))
    found = MATHS.findall(text)
    short = iter(range(len(found)))
    plain = MATHS.sub(lambda formula: f"@{next(short)}@".ljust(len(formula[1]) // 2, "\0"), text)
    lines = textwrap.wrap(plain, width, break_long_words=False, break_on_hyphens=False) or [""]
    return [re.sub(r"@(\d+)@\0*", lambda number: drawable(found[int(number[1])]), line) for line in lines]
