"""What the book's own extensions do to its pages: figures for two themes, few files, true headings, no dead buttons."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

pytest.importorskip("docutils", reason="the book's packages are not installed: make book, then make test-site")
from docutils.core import publish_doctree

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "book" / "_ext"))
import figures_for_the_dark  # noqa: E402
import light_site  # noqa: E402

INK, BLUE, PALE, WHITE = (26, 26, 26), (0, 114, 178), (230, 242, 249), (255, 255, 255)


def figure():
    """A white ground with a line of ink, a blue bar with white letters in it, a pale band and a blue line."""
    drawn = np.full((160, 240, 3), 255, np.uint8)
    drawn[10:12, 10:230] = INK
    drawn[40:104, 16:112] = BLUE
    drawn[66:70, 56:60] = WHITE
    drawn[40:104, 160:224] = PALE
    drawn[130:133, 10:230] = BLUE
    return Image.fromarray(drawn)


@pytest.fixture
def dark():
    return np.asarray(figures_for_the_dark.dark_variant(figure())).astype(int)


def test_the_ground_of_a_dark_figure_is_that_of_the_page(dark):
    assert np.abs(dark[0, 0] - figures_for_the_dark.PAGE).max() <= 2


def test_ink_becomes_light_and_a_coloured_line_stays_itself(dark):
    assert dark[11, 50].min() > 200
    assert np.abs(dark[131, 50] - BLUE).max() <= 40


def test_a_filled_bar_keeps_its_colour_and_the_letters_in_it(dark):
    assert np.abs(dark[50, 50] - BLUE).max() <= 3
    assert dark[67, 57].min() > 250


def test_a_pale_band_becomes_a_dark_band(dark):
    assert dark[70, 190].max() < 100


def test_a_picture_on_black_is_kept_to_its_edges():
    drawn = np.full((160, 160, 3), 255, np.uint8)
    drawn[24:120, 24:120] = (13, 17, 23)
    drawn[90:120, 60:90] = WHITE  # a white shape that touches the edge of the picture
    kept = np.asarray(figures_for_the_dark.dark_variant(Image.fromarray(drawn)))
    assert np.abs(kept[24:120, 24:120].astype(int) - drawn[24:120, 24:120]).max() <= 2
    assert kept[5, 5].max() < 40


def test_a_page_has_both_variants_of_a_figure_and_no_other_image_changes():
    page = '<img alt="A curve." class="wide" src="../_images/a1.png" /><img alt="" src="_static/logo.svg"/>'
    paired = figures_for_the_dark.pair(page)
    assert re.findall(r'src="([^"]+)"', paired) == ["../_images/a1.png", "../_images/a1_dark.webp", "_static/logo.svg"]
    assert paired.count('alt="A curve."') == 2
    assert 'class="only-light wide"' in paired
    assert 'class="only-dark wide"' in paired
    assert paired.endswith('<img alt="" src="_static/logo.svg"/>')


def test_a_heading_without_a_word_is_a_cell():
    page = '<th class="head stub"><p></p></th><th class="head"><p>b</p></th>'
    assert light_site.without_barriers(page) == '<td class="head stub"></td><th class="head"><p>b</p></th>'


def test_a_heading_that_is_a_formula_alone_has_words():
    heading = r'<th class="head"><p><span class="math notranslate">\(\gamma / \beta\)</span></p></th>'
    named = light_site.without_barriers(heading)
    assert 'role="math" aria-label="gamma / beta">' in named
    assert named.replace(' role="math" aria-label="gamma / beta"', "") == heading


def test_a_source_has_no_role_that_was_taken_back():
    assert light_site.without_barriers('<div id="a" role="doc-biblioentry">') == '<div id="a" role="listitem">'


def test_a_page_is_described_by_its_first_sentences():
    short = publish_doctree("Title\n=====\n\nOne sentence\nof two lines.\n\nMore.")
    long = publish_doctree("Title\n=====\n\n" + "word " * 60)
    bare = publish_doctree("Title\n=====\n\n- a list")
    assert light_site.description(short) == "One sentence of two lines."
    assert len(light_site.description(long)) <= 160
    assert light_site.description(long).endswith("word…")
    assert light_site.description(bare) == ""


def test_only_what_pages_ask_for_is_left_of_mathjax(tmp_path):
    for name in ("tex-chtml.js", "tex-svg.js", "sre/mathmaps/en.json", "output/chtml/fonts/woff-v2/a.woff"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    light_site.trim_mathjax(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"tex-chtml.js", "output/chtml/fonts/woff-v2/a.woff"}
    assert not (tmp_path / "sre").exists()


def test_a_notebook_for_download_keeps_its_cells_and_loses_its_outputs(tmp_path):
    from nbformat import read, v4, write

    output = v4.new_output("stream", text="1")
    cells = [v4.new_markdown_cell("# Title"), v4.new_code_cell("print(1)", outputs=[output], execution_count=1)]
    write(v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    light_site.clear_outputs(tmp_path / "a.ipynb")
    left = read(tmp_path / "a.ipynb", as_version=4)
    assert [cell.source for cell in left.cells] == ["# Title", "print(1)"]
    assert (left.cells[1].outputs, left.cells[1].execution_count) == ([], None)


def test_without_an_address_no_button_leads_to_a_repository_or_a_service():
    options = light_site.buttons({"use_download_button": True}, "")
    assert options["launch_buttons"] == {"thebe": False}
    assert not any(options[f"use_{kind}_button"] for kind in ("repository", "issues", "edit_page"))
    assert options["use_download_button"]


@pytest.mark.parametrize("source", ["configuration", "environment"])
def test_with_an_address_all_of_them_do(source, monkeypatch):
    address = "https://example.org/group/name"
    monkeypatch.delenv("BOOK_REPOSITORY", raising=False)
    config = SimpleNamespace(html_theme_options={"repository_url": address if source == "configuration" else ""})
    if source == "environment":
        monkeypatch.setenv("BOOK_REPOSITORY", address)
    light_site._add_buttons(None, config)
    options = config.html_theme_options
    assert options["repository_url"] == address
    assert {"binderhub_url", "colab_url"} <= set(options["launch_buttons"])
    assert all(options[f"use_{kind}_button"] for kind in ("repository", "issues", "edit_page"))


def test_the_configuration_names_the_files_that_are_there():
    config = yaml.safe_load((ROOT / "book/_config.yml").read_text())
    assert (ROOT / config["logo"]).exists()
    assert (ROOT / config["html"]["favicon"]).exists()
    own = config["sphinx"]["config"]["html_sidebars"]["**"][0]
    assert (ROOT / config["sphinx"]["config"]["templates_path"][0] / own).exists()


def test_the_citation_names_both_papers_and_the_version():
    import minilib

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    entries = (ROOT / "book/references.bib").read_text()
    assert citation["version"] == minilib.__version__
    assert len(citation["references"]) == 2
    assert all(reference["url"] in entries for reference in citation["references"])
    assert f"## {minilib.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_workflow_builds_visits_and_publishes_what_make_builds():
    workflow = yaml.safe_load((ROOT / ".github/workflows/site.yml").read_text())
    steps = workflow["jobs"]["build"]["steps"]
    assert "make book test-site" in [step.get("run") for step in steps]
    assert steps[-1]["with"]["path"] == "book/_build/html"
    assert workflow["jobs"]["publish"]["needs"] == "build"
