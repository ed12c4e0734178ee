"""Let Sphinx read our docstrings, which are plain text with a little Markdown, as it would reStructuredText.

    in the docstring                      on the page
    an indented block                     literal block, as it was typed: equations and their "where" lists
    notebooks/NN_title.ipynb              link to the lesson
    `name`                                code
    everything else                       text; characters with a meaning to Sphinx are escaped

Sections such as `Args:`, and lists, are left to the napoleon extension and to Sphinx. The signature of a dataclass
with more fields than a page can show, such as those inherited from transformers, becomes dots.
"""

import re

FIRST = 400  # before napoleon, which listens to the same event at 500
SECTION = re.compile(r"(Args|Returns|Raises|Yields):$|[-*] ")
CODE = re.compile(r"(`[^`\n]+`|notebooks/\w+\.ipynb)")
SPECIAL = re.compile(r"(?<!\*)\*(?!\*)|\\|\||_(?=\W|$)")  # single stars, bars and trailing underscores; ** stays bold


def setup(app) -> dict:
    """Register with Sphinx."""
    app.connect("autodoc-process-docstring", _process, priority=FIRST)
    app.connect("autodoc-process-signature", _shorten)
    return {"parallel_read_safe": True}


def convert(lines: list[str]) -> list[str]:
    """The lines of one docstring as reStructuredText."""
    converted, literal, in_section = [], False, False
    for line in lines:
        indented = line.startswith(" ")
        if line and not indented:
            literal, in_section = False, bool(SECTION.match(line))
        if indented and not literal and not in_section:
            converted += ["", ".. code-block:: text", ""]
            literal = True
        converted.append(line if literal else _text(line))
    return converted


def _process(app, what, name, obj, options, lines) -> None:
    lines[:] = convert(lines)


def _shorten(app, what, name, obj, options, signature, returns):
    return ("(...)", returns) if signature and signature.count(",") > 40 else None


def _text(line: str) -> str:
    pieces = CODE.split(line)  # every second one is code or a lesson
    return "".join(_marked(piece) if k % 2 else SPECIAL.sub(r"\\\g<0>", piece) for k, piece in enumerate(pieces))


def _marked(piece: str) -> str:
    return f":doc:`/{piece.removesuffix('.ipynb')}`" if piece.startswith("notebooks/") else f"`{piece}`"
