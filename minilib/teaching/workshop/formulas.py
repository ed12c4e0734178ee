"""Formulas as pictures without a browser's help: TeX of the lessons, drawn by matplotlib, which knows a part of TeX."""

import base64
import io
import re

from matplotlib import mathtext

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
    (r"\\underbrace\{([^{}]*)\}_\{\\text\{[^{}]*\}\}", r"\1"),
    (r"\\text\{", r"\\mathrm{"),
    (r"\\q?quad(?![a-zA-Z])", r"\\ \\ \\ "),
)


def drawable(tex: str) -> str:
    """The formula between dollars in the words that matplotlib knows."""
    tex = " ".join(tex.split())
    for pattern, instead in SAME:
        tex = re.sub(pattern, instead, tex)
    return f"${tex}$"


def image(tex: str) -> str:
    """The formula as an <img>, its TeX as the text alternative; what cannot be drawn is shown as TeX."""
    picture, alt = io.BytesIO(), " ".join(tex.split()).replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    try:
        depth = mathtext.math_to_image(drawable(tex), picture, format="svg", dpi=72)
    except ValueError:
        return f"<code>{alt}</code>"
    data = base64.b64encode(picture.getvalue()).decode()
    return f'<img class="formula" style="--depth: {depth:.1f}" alt="{alt}" src="data:image/svg+xml;base64,{data}">'
