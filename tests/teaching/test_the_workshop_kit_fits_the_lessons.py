"""Routes add up to their minutes, every exercise has its notes, slides and handout are made of what is in the lessons.

The minutes are computed from the lessons, so a change of a lesson that makes a route too long is noticed here.
"""

import re
import sys
from pathlib import Path

import nbformat
import pytest
from support.lesson_rules import TAGS
from support.solved_lessons import exercises_of

from minilib.cli import workshop
from minilib.teaching import refresh
from minilib.teaching.workshop import formulas, handout, plan, slides
from minilib.teaching.workshop.exercises import exercise_names, lesson_paths

BOOK = Path(__file__).parents[2] / "book" / "workshop"
ROUTES = plan.read_routes()
LESSONS = {number: nbformat.read(path, as_version=4) for number, path in lesson_paths().items()}
PLANS = {name: plan.rows(route) for name, route in ROUTES.items()}
LABELS = ("Goal", "Misconceptions", "Ask", "Early", "Stuck")
every_route = pytest.mark.parametrize("name", ROUTES)


# Routes


def test_there_are_three_routes_and_the_first_takes_ninety_minutes():
    assert {name: route["minutes"] for name, route in ROUTES.items()} == {"ninety": 90, "half_day": 240, "day": 420}


@every_route
def test_a_route_sums_to_its_minutes(name):
    assert sum(row.minutes for row in PLANS[name]) == ROUTES[name]["minutes"]


@every_route
def test_nobody_sits_longer_than_fifty_minutes_and_learners_work_for_two_fifths(name):
    stretch = longest = 0
    for row in PLANS[name]:
        stretch = 0 if row.what in ("Break", "Lunch") else stretch + row.minutes
        longest = max(longest, stretch - row.minutes * (row.what == "Questions"))
    assert longest <= 50
    minutes = {who: sum(row.minutes for row in PLANS[name] if row.who == who) for who in ("teacher", "learners")}
    assert minutes["learners"] >= 0.4 * sum(minutes.values())


def test_the_page_of_routes_is_what_the_command_writes():
    page = (BOOK / "routes.md").read_text()
    assert plan.updated(page) == page, "run python -m minilib workshop plan"
    with pytest.raises(ValueError, match="the page has no mark <!-- plan: ninety -->"):
        plan.updated("nothing")


@pytest.mark.parametrize("number", LESSONS)
def test_the_parts_of_a_lesson_add_up_to_its_minutes(number):
    """Both come from the rule of the overview, which counts the folded answers of the quiz too."""
    prose = "\n\n".join(cell.source for cell in LESSONS[number].cells if cell.cell_type == "markdown")
    code = "\n".join(cell.source for cell in LESSONS[number].cells if cell.cell_type == "code")
    boxes = 60 * sum(map(int, refresh.BOX.findall(prose)))
    whole = refresh.seconds(refresh.FOLD.sub("", prose), code) + refresh.seconds("\n".join(refresh.FOLD.findall(prose)))
    quiz = refresh.seconds("\n".join(refresh.FOLD.findall(prose.partition("\n## Quiz\n")[2])))
    assert sum(plan.parts(LESSONS[number]).values()) == pytest.approx(whole + boxes - quiz, abs=5)


def test_what_follows_the_folds_of_an_exercise_belongs_to_the_section():
    markdown, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    box = "> **Level 1** · importance 3 · 4 minutes"
    cells = [
        markdown("# Title"),
        markdown("## Section\n\n" + "word " * 118),
        markdown(f"### Exercise 1. Try\n\n{box}"),
        code("def f():\n    raise"),
        markdown("<details>\n<summary>Hint</summary>\n\nyes\n\n</details>\n\n" + "word " * 120 + "\n\n## Next\n\nend"),
        code("x = 1"),
    ]
    parts = plan.parts(nbformat.v4.new_notebook(cells=cells))
    assert list(parts) == ["Overview", "Section", "Exercise 1", "Next"]
    assert parts["Section"] == pytest.approx(120, abs=2)
    assert 250 < parts["Exercise 1"] < 265
    assert parts["Next"] < 10


def test_plans_outside_of_a_clone_are_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match="the routes need the repository, run the command from a clone of it"):
        workshop.plan()


def test_packages_are_installed_into_the_python_that_was_checked(monkeypatch):
    monkeypatch.setattr(workshop, "_installed", lambda _: False)
    assert workshop._packages().fix.startswith(f"run {sys.executable} -m pip install ")


def test_a_part_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="lesson 03 has no part 'Exercise 9': choose from Overview"):
        plan.rows({"rows": [{"lesson": "03", "exercise": 9}]})
    with pytest.raises(ValueError, match="route is 'week': choose one of ninety, half_day, day"):
        plan.route_named("week")


# Notes


def notes():
    """(lesson, number, name) -> the labels of its entries, of every heading in the notes."""
    text = (BOOK / "notes.md").read_text()
    found = re.findall(r"^### (\d\d)\.(\d) `(\w+)`\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(found) == len(re.findall("^### ", text, re.MULTILINE))
    return {
        (lesson, int(number), name): re.findall(
            r"^- \*\*(\w+)\.\*\* \w", body.replace("$", "x").replace("`", "x"), re.M
        )
        for lesson, number, name, body in found
    }


@pytest.mark.parametrize("number", LESSONS)
def test_every_exercise_of_a_lesson_has_its_notes(number):
    wanted = [(number, exercise.number, exercise.name) for exercise in exercises_of(LESSONS[number])]
    there = notes()
    missing = [f"### {lesson}.{place} `{name}`" for lesson, place, name in wanted if (lesson, place, name) not in there]
    assert not missing, f"book/workshop/notes.md lacks: {', '.join(missing)} (with {', '.join(LABELS)})"
    assert [name for _, _, name in wanted] == exercise_names(number)


def test_every_entry_is_whole_and_speaks_of_an_exercise_that_is_there():
    wanted = {(number, e.number, e.name) for number, lesson in LESSONS.items() for e in exercises_of(lesson)}
    assert {entry: labels for entry, labels in notes().items() if labels != list(LABELS)} == {}
    assert set(notes()) <= wanted


# Slides


def test_slides_come_from_tagged_cells():
    assert slides.TAG in TAGS
    for name, rows in PLANS.items():
        chosen = {row.lesson for row in rows if row.lesson}
        without = [
            number
            for number in chosen
            if not any(slides.TAG in c.metadata.get("tags", []) for c in LESSONS[number].cells)
        ]
        assert without == [], name


def test_the_slides_of_a_route_need_nothing_else(tmp_path, capsys):
    workshop.slides("ninety", str(tmp_path))
    page = (tmp_path / "slides_ninety.html").read_text()
    assert re.findall(r"(?:src|href)=\"(?!data:)[^\"]*\"|<script|@import|url\(", page) == []
    assert page.count("<section>") == int(capsys.readouterr().out.split()[0]) + 1
    assert all(
        title in page for title in ("Watch a sum overflow", "Merge states", "Break", "Fold a row over its tiles")
    )
    assert not re.search(r'<img class="figure" alt=""', page)
    assert "\\frac" not in re.sub(r'alt="[^"]*"', "", page)  # every formula is drawn
    assert "1:24 to 1:30" in page


def test_what_a_slide_shows_is_escaped_and_formulas_are_drawn_outside_of_code():
    page = str(slides.html("A $a<b$ and `x $y$ z` in [03](03_add.ipynb).\n\n$$\n\\frac1b \\big[x\\big]\n$$\n\n- $c$"))
    assert page.count("data:image/svg+xml") == 3
    assert 'alt="a&lt;b"' in page
    assert "<code>x $y$ z</code>" in page
    assert "03_add" not in page
    assert formulas.image(r"\begin{bmatrix}1\end{bmatrix}") == r"<code>\begin{bmatrix}1\end{bmatrix}</code>"


def test_every_formula_of_every_slide_is_drawn():
    texts = [
        slides.CODE.sub("", cell.source)
        for path in sorted(lesson_paths().values())
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "markdown" and slides.TAG in cell.metadata.get("tags", [])
    ]
    found = {formula[1] or formula[2] for text in texts for formula in slides.FORMULA.finditer(text)}
    assert len(found) > 100
    assert [tex for tex in found if not formulas.image(tex).startswith("<img")] == []


def test_words_keep_their_spaces_a_brace_its_label_and_a_table_its_lines():
    assert formulas.drawable(r"8b \text{ numbers}") == r"$8b \mathrm{\ numbers}$"
    label = formulas.drawable(r"\underbrace{\frac{a}{b_{c}}}_{\text{sum over } i}")
    assert label == r"$\underset{\mathrm{sum\ over\ } i}{\frac{a}{b_{c}}}$"
    table = formulas.drawable(r"\begin{array}{c|c} 1 & 2 \\ \hline 3 & 4 \end{array}")
    assert table == r"$\substack{1\ \ |\ 2\\\overline{3\ \ |\ 4}}$"


# The handout


def pages(pdf):
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


def test_the_handout_that_is_kept_has_two_pages_and_is_the_one_that_is_made(tmp_path, capsys):
    kept = (BOOK / "handout.pdf").read_bytes()
    workshop.handout("ninety", str(tmp_path))
    made = (tmp_path / "handout.pdf").read_bytes()
    assert capsys.readouterr().out.startswith("2 pages in ")
    assert pages(kept) == pages(made) == 2
    assert len(kept) < 150_000
    assert abs(len(kept) - len(made)) < 0.1 * len(kept)  # versions of matplotlib differ in bytes


@every_route
def test_every_route_has_a_handout_and_a_long_plan_gets_a_third_page(name, tmp_path):
    assert handout.write(name, tmp_path / "handout.pdf") == (2 if name == "ninety" else 3)
    assert pages((tmp_path / "handout.pdf").read_bytes()) == (2 if name == "ninety" else 3)


def test_a_handout_that_does_not_fit_is_told_and_the_old_one_stays(tmp_path, monkeypatch):
    (tmp_path / "handout.pdf").write_bytes(b"the old one")
    monkeypatch.setattr(handout, "_plan", lambda route: [("text", "a line")] * 70)
    with pytest.raises(ValueError, match=r"page 3 of the handout is 1\d\.\d inches long: shorten"):
        handout.write("ninety", tmp_path / "handout.pdf")
    assert (tmp_path / "handout.pdf").read_bytes() == b"the old one"


# Commands


def test_a_folder_or_a_route_may_stand_without_its_flag():
    assert workshop.named(["workshop", "progress", "here", "--strict=true"]) == [
        "workshop", "progress", "--folder", "here", "--strict=true",
    ]  # fmt: skip
    assert workshop.named(["workshop", "slides", "day"]) == ["workshop", "slides", "--route", "day"]
    for as_it_is in (["workshop", "progress", "--folder=here"], ["clip", "x", "y"], ["workshop", "check"]):
        assert workshop.named(as_it_is) == as_it_is


@pytest.mark.parametrize("fine", [True, False])
def test_check_says_what_to_do_and_ends_with_a_status(fine, monkeypatch, capsys):
    monkeypatch.setattr(workshop, "_lesson", lambda: workshop.Finding("lesson", fine, "3 cells", "ask"))
    monkeypatch.setattr(workshop, "FREE_DISK", 1)
    monkeypatch.setattr(workshop, "FREE_MEMORY", 1)
    monkeypatch.setattr(workshop, "_packages", lambda: workshop.Finding("packages", True, "all", ""))
    monkeypatch.setattr(workshop, "_kernel", lambda: workshop.Finding("kernel", True, "here", ""))
    if fine:
        workshop.check()
    else:
        with pytest.raises(SystemExit, match="1"):
            workshop.check()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[-1] == ("ok   lesson    3 cells" if fine else "FIX  lesson    3 cells: ask")


def test_too_little_of_anything_is_a_finding(monkeypatch):
    monkeypatch.setattr(workshop, "FREE_DISK", 1e18)
    monkeypatch.setattr(workshop, "FREE_MEMORY", 1e18)
    monkeypatch.setattr(workshop, "PYTHONS", ((3, 5), (3, 6)))
    monkeypatch.setattr(workshop, "_installed", lambda name: name != "peft")
    found = [look() for look in (workshop._disk, workshop._memory, workshop._python, workshop._packages)]
    assert not any(finding.fine for finding in found)
    assert found[-1].told in ("peft missing", "minilib is not installed in this Python")
    assert "from 3.5 to 3.6" in found[2].fix


def test_a_few_cells_of_lesson_03_run_and_print_what_they_should():
    pytest.importorskip("ipykernel", reason="jupyter is not installed here")
    assert workshop._lesson().fine


@pytest.mark.parametrize("limit", ["seconds", "gigabytes", "workers"])
def test_a_limit_that_is_none_is_refused(limit, tmp_path):
    with pytest.raises(ValueError, match=f"{limit} is 0: give a number above 0"):
        workshop.progress(str(tmp_path), **{limit: 0})
