"""Formulas as pictures without a browser's help: TeX of the lessons, drawn by matplotlib, which knows a part of TeX."""

import base64
import io
import re

from matplotlib import mathtext

GROUP = r"\{((?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*)\}"  # braces, and three levels of them inside
TEXT = re.compile(r"\\text\{([^{}]*)\}")
ARRAY = re.compile(r"\\begin\{array\}\{([a-z|]*)\}(.*?)\\end\{array\}")
SAME = (  # what a drawing loses nothing by
    (r"\\(?:left|right)?(?:big|Big|bigg|Bigg)[lr]?(?![a-zA-Z])", ""),
    (r"\\[td]frac", r"\\frac"),
    (r"\\frac(\w)(\w)", r"\\frac{\1}{\2}"),
    (r"\\frac(\w)\{", r"\\frac{\1}{"),
    (r"\\sqrt (\w)", r"\\sqrt{\1}"),
    (r"\\(l|g)e(?![a-zA-Z])", r"\\\1eq"),
    (r"\\[lr]vert(?![a-zA-Z])", "|"),
    (r"\\[lr]Vert(?![a-zA-Z])", r"\\Vert"),
    (r"\\bmod(?![a-zA-Z])", r"\\ \\mathrm{mod}\\ "),
    (rf"\\underbrace{GROUP}_{GROUP}", r"\\underset{\2}{\1}"),
    (r"\\q?quad(?![a-zA-Z])", r"\\ \\ \\ "),
)


def drawable(tex: str) -> str:
    """The formula between dollars in the words that matplotlib knows."""
    tex = ARRAY.sub(_stacked, " ".join(tex.split()))
    tex = TEXT.sub(lambda words: r"\mathrm{" + words[1].replace(" ", r"\ ") + "}", tex)
    for pattern, instead in SAME:
        tex = re.sub(pattern, instead, tex)
    return f"${tex}$"


def _stacked(array: re.Match) -> str:
    """The rows of a table one above the other, with the lines between its columns and rows."""
    bars = {array[1][:at].count("c") for at, mark in enumerate(array[1]) if mark == "|"}
    stack = []
    for row in array[2].split(r"\\"):
        cells = enumerate(row.replace(r"\hline", "").split("&"))
        line = r"\ \ ".join((r"|\ " if at in bars else "") + cell.strip() for at, cell in cells)
        stack.append(rf"\overline{{{line}}}" if r"\hline" in row else line)
    return r"\substack{" + r"\\".join(stack) + "}"


def image(tex: str) -> str:
    """The formula as an <img>, its TeX as the text alternative; what cannot be drawn is shown as TeX."""
    picture, alt = io.BytesIO(), " ".join(tex.split()).replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    try:
        depth = mathtext.math_to_image(drawable(tex), picture, format="svg", dpi=72)
    except ValueError:
        return f"<code>{alt}</code>"
    data = base64.b64encode(picture.getvalue()).decode()
    return f'<img class="formula" style="--depth: {depth:.1f}" alt="{alt}" src="data:image/svg+xml;base64,{data}">'
