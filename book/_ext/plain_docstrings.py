"""Let Sphinx read our docstrings, which are plain text with a little Markdown, as it would reStructuredText.

    in the docstring                                            on the page
    an indented block after an empty line (an equation)         literal block, as it was typed
    `name`                                                      code
    everything else                                             text; characters with a meaning to Sphinx are escaped

Sections such as `Args:`, whose lines follow without an empty line, are left to the napoleon extension.
"""

import re

FIRST = 400  # before napoleon, which listens to the same event at 500
CODE = re.compile(r"(`[^`\n]+`)")
SPECIAL = re.compile(r"(?<!\*)\*(?!\*)|\\|\||_(?=\W|$)")  # single stars, bars and trailing underscores; ** stays bold
SECTION = re.compile(r"(Args|Returns|Raises|Yields):$")


def setup(app) -> dict:
    """Register with Sphinx."""
    app.connect("autodoc-process-docstring", _process, priority=FIRST)
    return {"parallel_read_safe": True}


def convert(lines: list[str]) -> list[str]:
    """The lines of one docstring as reStructuredText."""
    converted, literal, in_section = [], False, False
    for number, line in enumerate(lines):
        indented, after_gap = line.startswith(" "), number > 0 and not lines[number - 1].strip()
        if line.strip() and not indented:
            literal, in_section = False, bool(SECTION.match(line))
        if indented and after_gap and not literal and not in_section:
            converted += ["::", ""]
            literal = True
        converted.append(line if literal else _text(line))
    return converted


def _process(app, what, name, obj, options, lines) -> None:
    lines[:] = convert(lines)


def _text(line: str) -> str:
    pieces = CODE.split(line)  # every second one is code
    return "".join(f"`{piece}`" if k % 2 else SPECIAL.sub(r"\\\g<0>", piece) for k, piece in enumerate(pieces))
