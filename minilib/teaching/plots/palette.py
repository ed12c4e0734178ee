"""Colours, markers, sizes and number formats that all figures share.

Two families of colour run through the course, Okabe and Ito's palette for colour-blind readers in both: PREDICTED is
light, hatched or dashed, MEASURED is dark and solid. Methods have a marker of their own, too: colour is never alone.
"""

from matplotlib.colors import to_rgb
from matplotlib.ticker import FuncFormatter

from minilib.teaching.memory import format_bytes

INK, GREY = "#1a1a1a", "#8c8c8c"
BLUE, SKY, VERMILLION, GREEN, ORANGE, PURPLE = "#0072B2", "#56B4E9", "#D55E00", "#009E73", "#E69F00", "#CC79A7"
PREDICTED, MEASURED = SKY, BLUE
LINES = [(BLUE, "o", "-"), (VERMILLION, "s", "--"), (GREEN, "^", "-."), (PURPLE, "D", ":"), (ORANGE, "v", "-")]
DENSE, TILED = (VERMILLION, "s"), (GREEN, "o")  # colour and marker of the two ways to compute one loss

FONT = 9.5  # points; nothing is set smaller than 9
BYTES, COUNT = FuncFormatter(lambda n, _: format_bytes(n)), FuncFormatter(lambda n, _: f"{n:,.0f}")
SHARE = FuncFormatter(lambda share, _: f"{share:.0%}")


def pale(colour: str, share: float = 0.5) -> tuple[float, ...]:
    """The colour mixed with white, so that ink stays readable on it."""
    return tuple(1 - share * (1 - part) for part in to_rgb(colour))
