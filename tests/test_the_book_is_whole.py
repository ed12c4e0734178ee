"""The book says nothing that is not there: pages, links, functions, tests, messages, numbers and the front picture.

Building it (`make book`, warnings as errors) proves that Sphinx understands the pages. These tests prove that what the
pages claim about the repository is true, without building anything.
"""

import ast
import importlib
import json
import re
import struct
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

import minilib
from minilib.teaching import front_picture, memory

ROOT = Path(__file__).parent.parent
BOOK = ROOT / "book"
PAGES = sorted(page for page in BOOK.rglob("*.md") if "_build" not in page.parts)
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)|^:::\{figure\} (\S+)", re.MULTILINE)

sys.path.insert(0, str(BOOK / "_ext"))
from plain_docstrings import convert  # noqa: E402


def read(name):
    return (BOOK / name).read_text()


# Pages and links


def listed():
    toc = yaml.safe_load(read("_toc.yml"))
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


def test_every_page_and_every_lesson_is_listed_once_and_exists():
    there = [page.relative_to(ROOT).with_suffix("").as_posix() for page in PAGES]
    there += [p.relative_to(ROOT).with_suffix("").as_posix() for p in (ROOT / "notebooks").rglob("[0-9]*.ipynb")]
    assert sorted(listed()) == sorted(there)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_relative_links_of_a_page_lead_somewhere(page):
    links = [link or figure for link, figure in LINK.findall(page.read_text())]
    local = [link for link in links if not link.startswith(("http", "#"))]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_book_needs_no_network():
    config = yaml.safe_load(read("_config.yml"))
    extensions = config["sphinx"]["extra_extensions"]
    assert config["execute"]["execute_notebooks"] == "off"
    assert "sphinx-mathjax-offline" in extensions
    assert not any("intersphinx" in name or "thebe" in name for name in extensions)
    assert not re.search(r"https?://", read("_static/book.css") + read("_config.yml"))


# The paper map


def map_offences(text):
    """What a paper map names and the repository does not have."""
    offences = []
    for row in re.findall(r"^\| \*\*.+\|$", text, re.MULTILINE):
        source, function, lesson, test = (cell.strip() for cell in row.strip("|").split("|"))
        if function == "not part of this version":
            continue
        offences += [f"{source}: {what}" for what in (*_function(function), *_lesson(lesson), *_test(test))]
    return offences


def _function(cell):
    found = re.fullmatch(r"\{py:obj\}`\S+ <(minilib[\w.]*)\.(\w+)>`", cell)
    if not found:
        return [f"no function in {cell!r}"]
    try:
        getattr(importlib.import_module(found[1]), found[2])
    except (ImportError, AttributeError) as error:
        return [str(error)]
    return []


def _lesson(cell):
    found = re.fullmatch(r"\[\d\d\]\(\.\./(notebooks/\w+\.ipynb)\)", cell)
    return [] if found and (ROOT / found[1]).exists() else [f"no lesson in {cell!r}"]


def _test(cell):
    found = re.fullmatch(r"`(test_\w+)` `(test_\w+)`", cell)
    paths = list((ROOT / "tests").rglob(f"{found[1]}.py")) if found else []
    there = len(paths) == 1 and re.search(rf"^def {found[2]}\(", paths[0].read_text(), re.MULTILINE)
    return [] if there else [f"no test in {cell!r}"]


def test_every_function_lesson_and_test_of_the_paper_map_exists():
    rows = re.findall(r"^\| \*\*", read("paper_map.md"), re.MULTILINE)
    assert len(rows) > 15
    assert map_offences(read("paper_map.md")) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<minilib.lse.merge>", "<minilib.lse.fuse>"),
        ("<minilib.lse.merge>", "<minilib.sle.merge>"),
        ("03_add_logs", "03_subtract_logs"),
        ("test_merging_is_associative", "test_merging_is_magic"),
        ("`test_logs_of_sums_merge`", "`test_nothing`"),
    ],
)
def test_a_paper_map_that_names_something_else_is_noticed(old, new):
    assert old in read("paper_map.md")
    broken = map_offences(read("paper_map.md").replace(old, new))
    kept = map_offences(read("paper_map.md"))
    assert len(broken) > len(kept)


# The API pages


def documented():
    """Modules of the API pages, each with the members it is limited to, or None for all."""
    found = {}
    for page in (BOOK / "api").glob("*.md"):
        for module, options in re.findall(r"automodule:: ([\w.]+)\n((?:   :.*\n)*)", page.read_text()):
            members = re.search(r":members: (.+)", options)
            found[module] = members and [name.strip() for name in members[1].split(",")]
    return found


@pytest.mark.parametrize("package", ["", ".losses", ".trainers", ".data", ".models", ".evals", ".bench"])
def test_every_exported_name_is_described(package):
    exporting, pages = importlib.import_module(f"minilib{package}"), documented()
    for name in exporting.__all__:
        thing = getattr(exporting, name)
        module = getattr(thing, "__module__", None) or thing.__name__
        assert module in pages, f"{name} lives in {module}, which no API page describes"
        assert pages[module] is None or name in pages[module], f"{name} is left out of {module}"


@pytest.mark.parametrize("module", documented())
def test_described_modules_and_members_exist(module):
    imported = importlib.import_module(module)
    assert all(hasattr(imported, name) for name in documented()[module] or [])


def test_described_functions_and_classes_exist():
    names = re.findall(
        r"auto(?:function|class):: ([\w.]+)", "\n".join(page.read_text() for page in (BOOK / "api").glob("*.md"))
    )
    assert names
    for name in names:
        module, _, member = name.rpartition(".")
        assert hasattr(importlib.import_module(module), member), name


def test_the_list_under_a_formula_begins_a_paragraph():
    for path in (ROOT / "minilib").rglob("*.py"):
        lines = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()
        for before, line in pairwise(lines):
            assert line != "where" or not before, f"{path}: put an empty line before 'where'"


def test_docstrings_become_text_that_sphinx_can_read():
    docstring = ["Sum `x` of |x_i|, s* and log_:", "", "    R_i = |x|*", "", "where", "    x   rows", "", "Text."]
    converted = "\n".join(convert(docstring))
    assert r"Sum ``x`` of \|x_i\|, s\* and log\_:" in converted
    assert converted.count(".. code-block:: text") == 2
    assert "    R_i = |x|*" in converted
    assert "where\n\n.. code-block:: text\n\n    x   rows" in converted


def test_docstrings_keep_sections_lists_and_bold_and_link_to_lessons():
    kept = ["**Careful**", "", "Args:", "    x: rows", "", "- one", "  and more"]
    assert convert(kept) == kept
    assert convert(["See notebooks/00_start_here.ipynb."]) == ["See :doc:`/notebooks/00_start_here`."]


# The bibliography


def test_every_entry_is_presented_and_every_citation_has_an_entry():
    entries = re.findall(r"^@\w+\{(\w+),", read("references.bib"), re.MULTILINE)
    cited = {key for page in PAGES for key in re.findall(r"\{cite(?::\w+)?\}`(\w+)`", page.read_text())}
    presented = re.findall(r"^- \{cite:t\}`(\w+)`: \w+", read("bibliography.md"), re.MULTILINE)
    assert cited <= set(entries)
    assert sorted(presented) == sorted(entries)
    assert entries[:2] == presented[:2] == ["infcl", "logo"]


def test_every_entry_has_authors_title_year_and_address():
    for entry in re.split(r"\n(?=@)", read("references.bib").strip()):
        assert all(re.search(rf"^  {field} = \{{.+\}},$", entry, re.MULTILINE) for field in ("author", "title", "url"))
        assert re.search(r"year = \{(19|20)\d\d\},", entry)


# Messages and numbers


def test_every_message_of_the_troubleshooting_page_is_one_that_the_project_says():
    said = " ".join(path.read_text() for path in (ROOT / "minilib").rglob("*.py")) + (ROOT / "Makefile").read_text()
    ours = read("troubleshooting.md").split("## Messages of this project")[1].split("\n## ")[0]
    messages = re.findall(r"^### `(.+)`$", ours, re.MULTILINE)
    parts = [part.strip() for message in messages for part in message.split("…") if part.strip()]
    assert len(messages) >= 10
    assert [part for part in parts if part not in said] == []


@pytest.mark.parametrize("backend", ["dense", "tiled"])
def test_the_bytes_of_the_cheat_sheet_are_those_that_the_library_predicts(backend):
    row = re.search(rf"^\| {backend} \| \d \|.*\| (.+) \|$", read("cheat_sheet.md"), re.MULTILINE)
    assert row[1] == memory.format_bytes(memory.predict_bytes(65_536, 512, backend=backend)["total"])


def test_the_bytes_of_the_other_cheat_sheet_rows_follow_from_their_formulas():
    b, d = 65_536, 512
    frozen = memory.predict_bytes(b, d, backend="tiled")["total"] - 4 * b * d
    assert f"| {memory.format_bytes(frozen)} |" in read("cheat_sheet.md")
    assert f"| {memory.format_bytes(16 * b * d)} |" in read("cheat_sheet.md")  # sigmoid


# The front picture


def test_the_landing_page_tells_what_the_front_picture_shows():
    alt = re.search(r"^:alt: (.+)$", read("index.md"), re.MULTILINE)[1]
    assert alt == front_picture.draw().alt_text


def test_the_front_picture_is_light_and_as_large_as_drawn():
    png = (BOOK / "_static" / "memory_wall.png").read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    assert len(png) <= 80_000
    assert (width, height) == tuple(2 * 100 * side for side in front_picture.draw().get_size_inches())


def test_the_measurements_behind_the_front_picture_confirm_the_prediction():
    stored = json.loads(read("_static/memory_wall.json"))["bytes"]
    assert {name: tuple(batch for batch, _ in points) for name, points in stored.items()} == front_picture.MEASURED
    for name, points in stored.items():
        assert all(0.8 < size / front_picture.predicted(name, batch) < 1.25 for batch, size in points)


def test_the_command_writes_picture_and_measurements(tmp_path, monkeypatch, capsys):
    points = {"dense": [(1_024, front_picture.predicted("dense", 1_024))]}
    monkeypatch.setattr(front_picture, "measure", lambda: points)
    front_picture.main(tmp_path)
    assert (tmp_path / "memory_wall.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "memory_wall.json").read_text())["bytes"]["dense"][0][0] == 1_024
    assert "measured over predicted 1.00 to 1.00" in capsys.readouterr().out


def test_the_version_of_the_library_is_that_of_the_project():
    assert f'version = "{minilib.__version__}"' in (ROOT / "pyproject.toml").read_text()
