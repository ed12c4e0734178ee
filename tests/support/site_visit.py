"""Visit every page of the built site once, in headless Chromium, and write down all that the tests ask about.

A visit loads the page at 1,280 pixels in the light theme and looks at it again at 390 pixels in the dark one. Each time
axe-core looks for what hinders readers. Contrast depends only on the colours, the size and the weight of a text, and is
the slowest rule by far: it is asked once for each such look in each theme, wherever on the site it comes first.
"""

import asyncio
import functools
import http.server
import os
import shutil
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
LOOKS = {"light": 1280, "dark": 390}  # theme and width in pixels
TABS = 2
SETTLED = 400  # milliseconds; 300 after a change of width the theme lets keys reach the boxes that scroll now

# axe's rules whose answer depends on the width; the others give at 390 pixels what they gave at 1,280
BY_WIDTH = ["scrollable-region-focusable", "button-name", "link-name", "aria-hidden-focus", "target-size"]

MARK_NEW_LOOKS = """(seen) => {
  const known = new Set(seen), found = [], grounds = new Map();
  const ground = (e) => {  // colours behind a text, up to the first that hides the rest, and opacity
    if (!e) return '';
    if (!grounds.has(e)) {
      const style = getComputedStyle(e), colour = style.backgroundColor;
      const own = colour === 'rgba(0, 0, 0, 0)' ? '' : colour;
      const behind = own.startsWith('rgb(') ? '' : ground(e.parentElement);
      grounds.set(e, own + behind + (style.opacity === '1' ? '' : ' opacity ' + style.opacity));
    }
    return grounds.get(e);
  };
  for (const e of document.querySelectorAll('body *')) {
    e.removeAttribute('data-new-look');
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility()) continue;
    const style = getComputedStyle(e), inLink = e.closest('a') ? 'link' : '';
    const look = [style.color, style.fontSize, style.fontWeight, ground(e), inLink].join(' | ');
    if (known.has(look)) continue;
    known.add(look); found.push(look); e.setAttribute('data-new-look', '');
  }
  return found;
}"""
AXE = """([context, options]) => axe.run(context || document, {preload: false, reporter: 'no-passes', ...options})
  .then((r) => r.violations.flatMap((v) => v.nodes.map((n) => `${v.id} (${v.impact}): ${n.target.join(' ')}`)))"""
FORMULAS = "() => window.MathJax && MathJax.startup ? MathJax.startup.promise.then(() => true) : true"
TOO_WIDE = """() => document.documentElement.scrollWidth > innerWidth ? [document.documentElement.scrollWidth] : []"""
BROKEN_IMAGES = """() => Promise.all([...document.images].filter((i) => i.checkVisibility()).map((i) => {
  i.loading = 'eager'; return i.decode().then(() => '', () => i.src);
})).then((found) => found.filter(Boolean))"""


@dataclass
class Visit:
    """What one page did and showed."""

    console: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    too_wide: list[str] = field(default_factory=list)
    axe: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)


@contextmanager
def served(site: Path):
    """The address under which the folder can be read while the block runs."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


def pages_of(site: Path) -> list[str]:
    """Paths of all pages but the one that only leads on, the largest first, so that none is begun last."""
    pages = [path for path in site.rglob("*.html") if "_static" not in path.parts]
    pages = [path for path in pages if 'http-equiv="Refresh"' not in path.read_text()]
    return [path.relative_to(site).as_posix() for path in sorted(pages, key=lambda p: -p.stat().st_size)]


def launch_options() -> dict:
    """How to start the browser: a Chromium of this machine, or the one that playwright may have installed."""
    named = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    return {"executable_path": named, "args": ["--no-sandbox"]}


def axe_script() -> str:
    """The source of axe-core, which the wheel axe-playwright-python carries."""
    import axe_playwright_python

    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()


def visit_all(address: str, pages: list[str]) -> dict[str, Visit]:
    """Every page's visit, by its path."""
    return asyncio.run(_visit_all(address, pages))


async def _visit_all(address: str, pages: list[str]) -> dict[str, Visit]:
    from playwright.async_api import async_playwright

    visits, todo, looks, axe = {}, list(reversed(pages)), {theme: set() for theme in LOOKS}, axe_script()
    bar = tqdm(total=len(pages), desc="pages")

    async def tab(browser):
        page = await browser.new_page()
        while todo:
            name = todo.pop()
            visits[name] = await _visit(page, address, name, looks, axe)
            bar.update()

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(**launch_options())
        await asyncio.gather(*(tab(browser) for _ in range(TABS)))
        await browser.close()
    return visits


async def _visit(page, address: str, name: str, looks: dict[str, set], axe: str) -> Visit:
    visit = Visit()
    listeners = {
        "console": lambda m: visit.console.append(m.text) if m.type in ("error", "warning") else None,
        "pageerror": lambda error: visit.console.append(str(error)),
        "request": lambda r: visit.outside.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None,
        "response": lambda r: visit.missing.append(r.url) if r.status >= 400 else None,
    }
    for event, listener in listeners.items():
        page.on(event, listener)
    for theme, width in LOOKS.items():
        await page.set_viewport_size({"width": width, "height": 900})
        if theme == "light":
            await page.goto(address + name)
            await page.evaluate(FORMULAS)
            await page.evaluate(axe)
            await page.add_style_tag(content="* { animation: none !important; transition: none !important }")
        else:
            await page.wait_for_timeout(SETTLED)
        await page.evaluate("(theme) => { document.documentElement.dataset.theme = theme }", theme)
        visit.too_wide += [f"{width}: {found}" for found in await page.evaluate(TOO_WIDE)]
        visit.images += await page.evaluate(BROKEN_IMAGES)
        visit.axe += [f"{theme}, {width}: {found}" for found in await _axe(page, theme, looks[theme])]
    for event, listener in listeners.items():
        page.remove_listener(event, listener)
    return visit


async def _axe(page, theme: str, seen: set) -> list[str]:
    rules = {"rules": {"color-contrast": {"enabled": False}}} if theme == "light" else {"runOnly": BY_WIDTH}
    found = await page.evaluate(AXE, [None, rules])
    new = await page.evaluate(MARK_NEW_LOOKS, sorted(seen))
    seen |= set(new)
    if new:
        found += await page.evaluate(AXE, [{"include": [["[data-new-look]"]]}, {"runOnly": ["color-contrast"]}])
    return found
