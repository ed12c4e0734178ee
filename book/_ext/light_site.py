"""Take from the built site what nobody reads, and add what its readers need.

downloads  notebooks come without their outputs, which would be half of the site: who runs them makes them anew
scripts    thebe, which would load code from elsewhere and declares its constants twice, is left out
MathJax    its one script and its fonts stay; its other forms, 22 MB, go; so do source maps and old fonts
tables     a heading without a word is an ordinary cell, since a screen reader would announce it as a heading
head       every page has a description: its first sentences
buttons    to the repository, its issues and to notebook services: only where the repository has an address,
           `repository_url` in _config.yml or BOOK_REPOSITORY in the environment
"""

import html
import os
import re
import shutil
from pathlib import Path

import nbformat
from docutils import nodes

MATHJAX = ("tex-chtml.js", "output/chtml/fonts/woff-v2")  # what a page asks for; the site's test sees every request
SERVICES = {"binderhub_url": "https://mybinder.org", "colab_url": "https://colab.research.google.com"}
EMPTY_HEADING = re.compile(r'<th class="head([^"]*)"><p></p></th>')
FORMULA_HEADING = re.compile(r'(<th class="head[^"]*"><p><span class="math[^"]*")>(\\\([^<]*\\\))(?=</span></p></th>)')
THEBE_CONFIG = re.compile(r'\s*<script type="text/x-thebe-config">.*?</script>', re.DOTALL)
DESCRIPTION = 160  # characters, as much as a list of search results shows


def setup(app) -> dict:
    """Register with Sphinx."""
    app.connect("config-inited", _add_buttons)
    app.connect("html-page-context", _improve, priority=900)
    app.connect("build-finished", _trim, priority=900)  # after MathJax has been copied
    return {"parallel_read_safe": True}


def buttons(options: dict, address: str) -> dict:
    """The theme's options with all buttons that lead to `address`, or without any when it is empty."""
    there = bool(address)
    shown = {f"use_{kind}_button": there for kind in ("repository", "issues", "edit_page")}
    services = {**SERVICES, "notebook_interface": "jupyterlab"} if there else {}
    return {**options, **shown, "repository_url": address, "launch_buttons": {"thebe": False, **services}}


def without_barriers(body: str) -> str:
    """The page with true headings of tables, and no role that was taken back."""
    body = EMPTY_HEADING.sub(r'<td class="head\1"></td>', body)
    body = FORMULA_HEADING.sub(
        lambda found: f'{found[1]} role="math" aria-label="{_spoken(found[2])}">{found[2]}', body
    )
    return body.replace('role="doc-biblioentry"', 'role="listitem"')


def _spoken(formula: str) -> str:
    """The words of a small formula: those of \\(\\gamma / \\beta\\) are gamma / beta."""
    return " ".join(re.sub(r"[\\(){}$]", " ", formula).split())


def description(doctree: nodes.document) -> str:
    """The first sentences of a page, as text of at most 160 characters."""
    paragraphs = (p for p in doctree.findall(nodes.paragraph) if isinstance(p.parent, (nodes.section, nodes.document)))
    text = " ".join(next((p.astext() for p in paragraphs), "").split())
    return text if len(text) <= DESCRIPTION else text[: DESCRIPTION - 1].rsplit(" ", 1)[0] + "…"


def trim_mathjax(folder: Path) -> None:
    """Leave the files of MATHJAX in `folder`, and nothing else."""
    kept = [folder / name for name in MATHJAX]
    for path in sorted(folder.rglob("*"), reverse=True):  # a folder after its files
        if path.is_file() and not any(path == keep or keep in path.parents for keep in kept):
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def clear_outputs(path: Path) -> None:
    """Store the notebook at `path` again, its code cells without outputs."""
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, path)


def _add_buttons(app, config) -> None:
    address = os.environ.get("BOOK_REPOSITORY") or config.html_theme_options.get("repository_url") or ""
    config.html_theme_options = buttons(config.html_theme_options, address)


def _improve(app, pagename, templatename, context, doctree) -> None:
    for kind in ("script_files", "css_files"):
        context[kind] = [file for file in context[kind] if not _is_thebe(file)]
    if "body" in context:
        context["body"] = without_barriers(THEBE_CONFIG.sub("", context["body"]))
    text = description(doctree) if doctree else ""
    if text:
        context["metatags"] += f'\n<meta name="description" content="{html.escape(text)}" />'


def _is_thebe(file) -> bool:
    return "thebe" in f"{getattr(file, 'filename', file)} {getattr(file, 'attributes', {}).get('body', '')}".lower()


def _trim(app, error) -> None:
    static = Path(app.outdir, "_static")
    if error or not (static / "mathjax").exists():
        return
    for notebook in Path(app.outdir, "_sources").rglob("*.ipynb"):
        clear_outputs(notebook)
    trim_mathjax(static / "mathjax")
    for path in [*static.rglob("*.map"), *static.rglob("fa-*.ttf"), *static.glob("sphinx-thebe.*")]:
        path.unlink()
    shutil.rmtree(static / "locales", ignore_errors=True)  # the theme's words in languages other than the book's
