"""What every figure is drawn on: panels, labels, alt text, and how a figure is shown in a notebook.

Figures are `matplotlib.figure.Figure` objects made directly, so there is no pyplot state to leak from one cell into the
next and no display is needed. The canvas is white on purpose: it stays readable on a dark page.

Alt text says what the picture shows, then what to notice. It becomes the text form of the output, which the notebook
tests compare word for word: it therefore quotes no measured digits, only what a second run would find again.
"""

import base64
import html
import io
import os

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from minilib.teaching.plots.palette import FONT, GREY, INK

DPI = 100  # one inch is 100 pixels on the page; the file holds twice as many
LARGEST_PNG = 80_000  # bytes, so that a notebook with many figures stays light


def canvas(title: str, alt_text: str, *, size: tuple[float, float] = (6.4, 3.6)) -> Figure:
    """An empty white figure of `size` inches with its title and its `alt_text` attribute."""
    figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
    figure.suptitle(title, fontsize=11, color=INK)
    figure.alt_text = " ".join(alt_text.split())
    return figure


def axes(figure: Figure, *where, xlabel: str = "", ylabel: str = "", title: str = "", **shared) -> Axes:
    """One panel with labelled axes and quiet frame lines."""
    panel = figure.add_subplot(*where, **shared)
    if title:
        panel.set_title(title, fontsize=FONT, color=INK)
    panel.set_xlabel(xlabel, fontsize=FONT, color=INK)
    panel.set_ylabel(ylabel, fontsize=FONT, color=INK)
    panel.tick_params(labelsize=9, colors=INK)
    panel.spines[["top", "right"]].set_visible(False)
    return panel


def label(panel: Axes, text: str, x: float, y: float, **options) -> None:
    """Write `text` next to the data point (x, y), in ink: a direct label instead of a legend."""
    settings = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "fontsize": FONT, "color": INK}
    panel.annotate(text, (x, y), **{**settings, **options})


def box(panel: Axes, left: float, top: float, width: float, height: float, text: str = "", **look) -> None:
    """A rectangle with `text` in its middle."""
    panel.add_patch(Rectangle((left, top), width, height, **look))
    if text:
        inside = {"xytext": (0, 0), "ha": "center", "fontsize": 9, "zorder": 4}
        label(panel, text, left + width / 2, top + height / 2, **inside)


def mark(panel: Axes, x: float, text: str, height: float) -> None:
    """A dotted line at `x`, named at `height`."""
    panel.axvline(x, color=GREY, linewidth=1, linestyle=":")
    label(panel, text, x, height)


def to_png(figure: Figure) -> bytes:
    """The figure as PNG at double resolution, at most 80 kB; equal figures give equal bytes.

    Stored with a palette of 256 colours, which loses nothing that a chart shows and halves the file.
    """
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()  # settle the layout once: it moves a little with every drawing
        figure.set_layout_engine("none")
    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=2 * DPI)
    Image.open(buffer).convert("RGB").quantize(256).save(small, format="png", optimize=True)
    if (taken := small.tell()) > LARGEST_PNG:
        raise ValueError(f"figure takes {taken} bytes as PNG, more than {LARGEST_PNG}: draw fewer or larger parts")
    return small.getvalue()


def show(figure: Figure) -> None:
    """Display the figure in a notebook: PNG for the eye, alt text as its text form and in the output's metadata.

    JupyterLab gives a PNG no alt text; where a server runs the kernel, an HTML form that has one goes first.
    """
    from IPython.display import display

    png, alt, width = base64.b64encode(to_png(figure)).decode(), alt_text_of(figure), round(figure.get_figwidth() * DPI)
    data = {"image/png": png, "text/plain": alt}
    if "JPY_SESSION_NAME" in os.environ:  # set for kernels of a server, not when lessons are executed to be stored
        data["text/html"] = f'<img alt="{html.escape(alt)}" width="{width}" src="data:image/png;base64,{png}">'
    display(data, raw=True, metadata={"image/png": {"alt": alt, "width": width}})


def alt_text_of(figure: Figure) -> str:
    """The figure's alt text; ValueError for a figure that has none."""
    text = getattr(figure, "alt_text", "")
    if not text:
        raise ValueError("figure has no alt text: set figure.alt_text to what it shows and what to notice")
    return text


def same_length(**named) -> None:
    """ValueError unless all the named sequences have one length, and at least one element."""
    lengths = {name: len(values) for name, values in named.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"{told}: pass sequences of one length, with at least one element")


def numbers(values) -> np.ndarray:
    """Any sequence or tensor as a NumPy array of floats."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=float)
