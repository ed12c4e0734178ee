"""The built site in a browser: nothing fails, nothing is fetched from elsewhere, it fits a phone, everyone can read it.

`make test-site` runs this after `make book`, where a Chromium and the extra `site` can be had: one visit for each page.
"""

import os
import re
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from support import site_visit

SITE = Path(os.environ.get("MINILIB_SITE", ""))
pytestmark = pytest.mark.skipif(
    "MINILIB_SITE" not in os.environ, reason="the built site is visited by make test-site, after make book"
)
LESSON = "notebooks/03_add_logs_of_sums.html"


@pytest.fixture(scope="module")
def address():
    with site_visit.served(SITE) as address:
        yield address


@pytest.fixture(scope="module")
def playwright():
    sync_api = pytest.importorskip("playwright.sync_api", reason='needs a browser driver: pip install ".[site]"')
    pytest.importorskip("axe_playwright_python", reason='needs axe-core: pip install ".[site]"')
    with sync_api.sync_playwright() as playwright:
        try:
            playwright.chromium.launch(**site_visit.launch_options()).close()
        except sync_api.Error:
            pytest.skip("the site was not visited: no Chromium here; install one, or set CHROMIUM to its path")
        yield playwright


@pytest.fixture(scope="module")
def visits(address, request):
    from concurrent.futures import ThreadPoolExecutor

    request.getfixturevalue("playwright")
    with ThreadPoolExecutor(1) as thread:  # the two forms of playwright need a thread each
        return thread.submit(site_visit.visit_all, address, site_visit.pages_of(SITE)).result()


@pytest.fixture
def page(playwright, address):
    browser = playwright.chromium.launch(**site_visit.launch_options())
    context = browser.new_context(viewport={"width": 1280, "height": 900}, base_url=address)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    yield context.new_page()
    browser.close()


@pytest.mark.parametrize("what", ["console", "outside", "missing", "too_wide", "axe", "images"])
def test_no_page_has_an_error_an_outside_request_a_missing_file_too_much_width_or_a_barrier(visits, what):
    assert len(visits) >= 30
    assert {name: found for name, visit in visits.items() if (found := getattr(visit, what))} == {}


def test_search_finds_the_lesson_and_its_link_leads_there(page):
    page.goto("search.html?q=overflow")
    result = page.locator("#search-results li a[href*='03_add_logs_of_sums']").first
    result.wait_for()
    result.click()
    page.wait_for_url("**/03_add_logs_of_sums.html*")


def test_the_theme_can_be_switched_and_is_kept_on_the_next_page(page):
    page.goto("book/index.html")
    figure = page.locator("figure img:visible")
    grounds = {}
    for _ in range(3):
        page.locator("button.theme-switch-button:visible").first.click()
        theme = page.evaluate("document.documentElement.dataset.theme")
        mode = page.evaluate("document.documentElement.dataset.mode")
        grounds[mode] = (theme, page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert ("_dark" in figure.get_attribute("src")) == (theme == "dark")
    assert set(grounds) == {"light", "dark", "auto"}
    assert grounds["light"] != grounds["dark"]
    while page.evaluate("document.documentElement.dataset.mode") != "dark":
        page.locator("button.theme-switch-button:visible").first.click()
    page.goto(LESSON)
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_the_copy_button_copies_the_cell(page):
    page.goto(LESSON)
    cell = page.locator("div.cell_input").first
    cell.hover()
    cell.locator("button.copybtn").click()
    page.wait_for_function("navigator.clipboard.readText().then((text) => text.length > 0)")
    assert page.evaluate("navigator.clipboard.readText()").strip() == cell.locator("pre").inner_text().strip()


def test_the_start_button_leads_to_lesson_00(page):
    page.goto("index.html")
    page.locator("a.start-button").click()
    page.wait_for_url("**/00_start_here.html")
    assert page.locator("h1:visible").count() == 1


def test_the_cheat_sheet_prints_on_one_page(page):
    page.goto("book/cheat_sheet.html")
    page.evaluate(site_visit.FORMULAS)
    pdf = page.pdf(prefer_css_page_size=True, print_background=True)
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == 1


def test_the_site_is_light():
    """Under 28 MB, and under 20 MB without the labs: their pages, their copies for download and their pictures."""
    sizes = {path.relative_to(SITE).as_posix(): path.stat().st_size for path in SITE.rglob("*") if path.is_file()}
    pages = site_visit.pages_of(SITE)
    labs = {name for name in sizes if "/labs/" in name}
    assert len(labs) > 20
    shown = {name: set(re.findall(r"_images/[^\"\s]+", (SITE / name).read_text())) for name in pages}
    elsewhere = set().union(*(shown[name] for name in pages if name not in labs))
    labs |= set().union(*(shown[name] for name in pages if name in labs)) - elsewhere
    assert sum(sizes.values()) < 28_000_000
    assert sum(size for name, size in sizes.items() if name not in labs) < 20_000_000


def test_every_page_has_a_title_a_description_and_an_icon():
    for name in site_visit.pages_of(SITE):
        text = (SITE / name).read_text()
        if name not in ("index.html", "genindex.html", "py-modindex.html", "search.html"):
            (description,) = re.findall(r'<meta name="description" content="([^"]+)"', text)
            assert 20 <= len(unescape(description)) <= 160, name
            assert 'rel="icon"' in text, name
            assert re.search(r"<title>\s*\S", text), name


def test_every_local_link_leads_to_a_file_and_every_anchor_to_a_place():
    texts = {name: (SITE / name).read_text() for name in site_visit.pages_of(SITE)}
    places = {name: set(re.findall(r'\bid="([^"]+)"', text)) for name, text in texts.items()}
    dead = []
    for name, text in texts.items():
        for link in map(unescape, re.findall(r'<a\b[^>]*?\bhref="([^"]*)"', text)):
            path, anchor = urldefrag(unquote(link))
            target = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
            if re.match(r"[a-z]+:", link):
                continue
            if not (SITE / target).exists() or (anchor and target in places and anchor not in places[target]):
                dead.append(f"{name}: {link}")
    assert dead == []
