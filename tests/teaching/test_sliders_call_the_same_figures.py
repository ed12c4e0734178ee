"""A slider calls the figure function beside it, so that the picture without a kernel tells the same story."""

import sys

import pytest

from minilib.teaching import plots, widgets

READY = {
    "memory_wall": (widgets.memory_wall, lambda: widgets.memory_wall_figure(2**17, 512)),
    "temperature": (lambda: widgets.temperature([0.9, 0.5]), lambda: widgets.temperature_figure([0.9, 0.5], 14.3)),
    "tile_size": (widgets.tile_size, lambda: widgets.tile_figure(96, 32, 4)),
    "running_max": (
        lambda: widgets.running_max(range(12)),
        lambda: widgets.running_max_figure(list(range(12)), 4),
    ),
}


@pytest.fixture
def shown(monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "show", figures.append)
    return figures


@pytest.mark.parametrize(("make", "twin"), READY.values(), ids=READY)
def test_a_slider_starts_with_its_static_twin(shown, make, twin):
    make()
    assert [figure.alt_text for figure in shown] == [twin().alt_text]
    assert shown[0].get_suptitle() == twin().get_suptitle()


def test_moving_a_slider_draws_the_figure_for_its_value(shown):
    box = widgets.explore(lambda scale: widgets.temperature_figure([0.9, 0.5], scale), scale=[2, 5, 10])
    slider = box.children[0]
    assert slider.value == 5
    assert slider.continuous_update is False
    slider.value = 10
    assert shown[-1].alt_text == widgets.temperature_figure([0.9, 0.5], 10).alt_text


def test_every_choice_of_the_ready_sliders_can_be_drawn():
    for largest in (2**10, 2**20):
        assert "pairs" in widgets.memory_wall_figure(largest, 64).alt_text
    assert "100%" in widgets.tile_figure(96, 48, 64).alt_text  # more visits than tiles
    assert "8 frames" in widgets.running_max_figure(list(range(40)), 2).alt_text  # a film has at most eight frames


def test_without_ipywidgets_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e \"\.\[notebooks\]\""):
        widgets.memory_wall()
