"""What every figure of the course must keep: it says what it shows, can be read, is light, and repeats itself.

A test file of figures names them in a subclass of `FiguresKeepTheRules`; pytest runs the tests below for each.
"""

import io

from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from minilib.teaching.plots import to_png


class FiguresKeepTheRules:
    """Tests of figures.

    Attributes:
        figures: name -> a function that draws the figure.
        one_axis: those whose panels stand one above the other and share the name of the last axis.
    """

    figures: dict
    one_axis: frozenset = frozenset()

    def pytest_generate_tests(self, metafunc):
        metafunc.parametrize("name", self.figures)

    def test_a_figure_says_what_it_shows_and_what_to_notice(self, name):
        figure = self.figures[name]()
        assert isinstance(figure, Figure)
        assert 60 <= len(figure.alt_text) <= 400
        assert figure.alt_text.count(".") >= 1
        assert "\n" not in figure.alt_text
        assert figure.get_suptitle()

    def test_nothing_is_set_smaller_than_nine_points(self, name):
        figure = self.figures[name]()
        figure.draw_without_rendering()
        texts = [t for t in figure.findobj(Text) if t.get_text() and t.get_visible()]
        assert min(t.get_fontsize() for t in texts) >= 9

    def test_the_file_is_double_resolution_light_and_repeats(self, name):
        figure = self.figures[name]()
        first = to_png(figure)
        assert len(first) <= 80_000
        assert first == to_png(figure) == to_png(self.figures[name]())
        width, height = Image.open(io.BytesIO(first)).size
        assert (width, height) == tuple(round(200 * side) for side in figure.get_size_inches())

    def test_every_axis_with_ticks_has_a_name(self, name):
        panels = [p for p in self.figures[name]().axes if p.axison and p.get_label() != "<colorbar>"]
        named = [bool(p.get_xlabel() or p.get_ylabel()) for p in panels]
        assert named[-1] if name in self.one_axis else all(named)
