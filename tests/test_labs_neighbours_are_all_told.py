"""The page Neighbours tells of every system once, as its data file has it, and the labs that exist agree with it.

`book/neighbours.yaml` is the list, `python -m minilib.teaching.neighbours` writes the page from it, and a lab says in
its own metadata what it covers: three places, compared here in pairs.
"""

import re
from collections import Counter

import nbformat
import pytest
import yaml

from minilib.teaching import neighbours

DATA = yaml.safe_load(neighbours.DATA.read_text())
SYSTEMS = DATA["systems"]
PAGE = neighbours.PAGE.read_text()
LABS = sorted(neighbours.LABS.glob("[0-9]*.ipynb"))
COUNTS = {"core": 2, "entry": 47, "added": 24, "paragraph": 20, "out": 59}
# What a row of each kind says besides title, kind and line; name, arxiv and unverified are optional.
SAYS = {
    "core": {"lessons"},
    "entry": {"entry", "lab"},
    "added": {"lab"},
    "paragraph": {"lab", "reason"},
    "out": {"reason"},
}
OPTIONAL = {"name", "arxiv", "unverified", "title_only"}


def of(kind, lab=None):
    return [row for row in SYSTEMS if row["becomes"] == kind and (lab is None or row["lab"] == lab)]


def rows_of(page):
    """Cells of each row of the tables, without their heads."""
    lines = [line for line in page.splitlines() if line.startswith("| **")]
    return [line.strip("| ").split(" | ") for line in lines]


def test_the_kinds_are_counted_as_they_should_be():
    assert Counter(row["becomes"] for row in SYSTEMS) == COUNTS
    assert len(SYSTEMS) == 152


def test_no_system_stands_twice():
    for key in ("title", "name", "arxiv"):
        values = [row[key] for row in SYSTEMS if key in row]
        assert [value for value, count in Counter(values).items() if count > 1] == []


def test_every_row_says_what_its_kind_has_to_say_and_nothing_else():
    for row in SYSTEMS:
        assert set(row) - OPTIONAL == {"title", "becomes", "line", *SAYS[row["becomes"]]}, row["title"]
        assert row["line"].endswith("."), row["title"]
        assert "|" not in "".join(str(value) for value in row.values()), row["title"]


def test_a_reason_has_at_most_eight_words():
    reasons = [row["reason"] for row in SYSTEMS if "reason" in row]
    assert [reason for reason in reasons if not 2 < len(reason.split()) <= 8] == []


def test_a_number_has_the_form_of_arxiv_and_only_a_number_can_be_unverified():
    numbers = [row["arxiv"] for row in SYSTEMS if "arxiv" in row]
    assert [number for number in numbers if not re.fullmatch(r"\d\d(0[1-9]|1[0-2])\.\d{5}", number)] == []
    assert all("arxiv" in row for row in SYSTEMS if row.get("unverified"))


def test_every_entry_stands_in_one_lab_and_the_exercises_of_the_last_in_several():
    places = {entry: {row["lab"] for row in of("entry") if row["entry"] == entry} for entry in range(1, 33)}
    assert {row["entry"] for row in of("entry")} == set(places)
    assert all(len(labs) == 1 for entry, labs in places.items() if entry < 32)
    assert places[32] == {3, 4, 6, 7, 8, 11, 13}


def test_there_are_fourteen_labs_and_each_has_rows():
    assert sorted(DATA["labs"]) == list(range(1, 15))
    assert {row["lab"] for row in SYSTEMS if "lab" in row} == set(DATA["labs"])


# The page


def test_the_page_is_what_the_command_writes(tmp_path):
    neighbours.main(tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == PAGE, "run python -m minilib.teaching.neighbours"


def test_the_page_has_a_row_for_every_system_in_the_table_of_its_lab():
    sections = dict(re.findall(r"^## (?:Lab )?(.+?)(?:\. .*)?\n((?:(?!^## ).*\n?)*)", PAGE, re.MULTILINE))
    places = {"core": "The two papers", "out": "Out of scope"}
    for row in SYSTEMS:
        section = rows_of(sections[places.get(row["becomes"]) or str(row["lab"])])
        assert neighbours.cells(row) in section, row["title"]
    assert len(rows_of(PAGE)) == len(SYSTEMS)


def test_unverified_numbers_and_lines_that_only_repeat_a_title_are_marked():
    marked = {"unverified": "*unverified*", "title_only": "†"}
    shown = [" | ".join(cells) for cells in rows_of(PAGE)]
    for key, mark in marked.items():
        tagged = {row["title"] for row in SYSTEMS if row.get(key)}
        assert tagged
        assert {row["title"] for row in SYSTEMS if mark in " | ".join(neighbours.cells(row))} == tagged
        assert sum(mark in row for row in shown) == len(tagged)


def test_a_title_is_not_told_twice_and_keeps_its_words():
    row = {"title": "Ring: A Tale", "name": "Ring"}
    assert neighbours.system(row) == "**Ring**: A Tale"
    assert neighbours.system({"title": "A Tale of Rings", "name": "ring"}) == "**Ring**: A Tale of Rings"
    assert neighbours.system({"title": "A Tale"}) == "**A Tale**"
    told = neighbours.system(row | {"arxiv": "2401.00001", "unverified": True})
    assert told == "**Ring**: A Tale [2401.00001](https://arxiv.org/abs/2401.00001) *unverified*"


def test_a_lab_is_linked_when_its_notebook_is_there(tmp_path):
    assert "notebooks/labs/" not in neighbours.page(DATA, tmp_path)
    (tmp_path / "03_serve.ipynb").touch()
    links = re.findall(r"\[Open the lab\]\((.+)\)", neighbours.page(DATA, tmp_path))
    assert links == ["../notebooks/labs/03_serve.ipynb"]
    assert "Labs 1, 2, 4, 5," in neighbours.page(DATA, tmp_path)  # and so on: what is not built is said


# The labs


def disagreements(told, title):
    """Where the metadata of a lab and its title differ from the rows of the list."""
    lab = told["lab"]
    listed = {
        "entries": sorted({row["entry"] for row in of("entry", lab)}),
        "added": sorted(row["name"] for row in of("added", lab)),
        "paragraphs": sorted(row["name"] for row in of("paragraph", lab)),
    }
    found = [f"{key}: {told[key]} against {names}" for key, names in listed.items() if sorted(told[key]) != names]
    heading = f"# Lab {lab}. {DATA['labs'][lab]['title']}"
    return found + ([f"{title!r} against {heading!r}"] if title != heading else [])


@pytest.mark.parametrize("path", LABS, ids=lambda path: path.stem)
def test_a_lab_covers_what_the_page_says_of_it(path):
    notebook = nbformat.read(path, as_version=4)
    told = notebook.metadata["minilib"]
    assert path.name.startswith(f"{told['lab']:02d}_")
    assert disagreements(told, notebook.cells[0].source.splitlines()[0]) == []


def test_a_lab_that_covers_something_else_is_noticed():
    title = "# Lab 3. Serve a long context"
    told = {"lab": 3, "entries": [13, 29, 32], "added": ["HiRED", "DistServe", "Splitwise"], "paragraphs": []}
    assert disagreements(told | {"paragraphs": ["Simple Hack"]}, title) == []
    assert disagreements(told, title) == ["paragraphs: [] against ['Simple Hack']"]
    broken = told | {"entries": [13, 29], "added": ["HiRED", "Splitwise"], "paragraphs": ["Simple Hack"]}
    assert [text.split(":")[0] for text in disagreements(broken, title)] == ["entries", "added"]
    assert len(disagreements(told, "# Lab 3. Serve")) == 2
