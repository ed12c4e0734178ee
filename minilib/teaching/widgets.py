"""Sliders over the figures of `minilib.teaching.plots`: the same functions, other numbers.

No information is in a widget alone. Each lesson first shows the static figure for the default state, then the
slider, then a line that says what to try; without a running kernel the figure still tells the story. A slider redraws
on release, not while it moves: one picture at a time, nothing flickers, and a screen reader hears one alt text.

Used in notebooks 00, 01, 03, 04 and 05.
"""

from collections.abc import Callable

import torch
from matplotlib.figure import Figure

from minilib import lse
from minilib.kernels.contrastive_tiled import tile_grid
from minilib.teaching import memory, plots


def explore(draw: Callable[..., Figure], **sliders):
    """Put a slider before each argument of `draw` and show the figure it returns; the returned box displays itself.

    A slider is a list of the values to choose from, or a tuple `(values, start)`; without a start it begins in the
    middle. Names are chosen from a list that drops down. Needs ipywidgets, which the extra `notebooks` installs
    (ModuleNotFoundError says so).
    """
    widgets = _ipywidgets()
    controls = {name: _slider(widgets, name, choice) for name, choice in sliders.items()}
    picture = widgets.interactive_output(lambda **values: plots.show(draw(**values)), controls)
    return widgets.VBox([*controls.values(), picture])


def memory_wall(limit_bytes: float = 16e9):
    """Sliders for the largest batch (powers of two) and the feature width of the memory wall."""
    return explore(
        lambda largest_batch, dim: memory_wall_figure(largest_batch, dim, limit_bytes),
        largest_batch=([2**k for k in range(10, 21)], 2**17),
        dim=([64, 128, 256, 512, 1024], 512),
    )


def temperature(similarities):
    """A slider for the scale that turns one row of cosine similarities `(n,)`, the true pair first, into a softmax."""
    row = torch.as_tensor(similarities, dtype=torch.float64)
    return explore(lambda scale: temperature_figure(row, scale), scale=([1, 2, 5, 10, 14.3, 20, 50, 100], 14.3))


def tile_size(batch: int = 96):
    """Sliders for the tile's edge and for the number of visits made so far."""
    return explore(
        lambda tile, visits: tile_figure(batch, tile, visits),
        tile=([12, 16, 24, 32, 48, 96], 32),
        visits=(list(range(1, 65)), 4),
    )


def running_max(logits, sizes: tuple[int, ...] = (2, 3, 4, 6)):
    """A slider for the block size with which one row of logits `(n,)` is folded into the running state."""
    row = torch.as_tensor(logits, dtype=torch.float64)
    return explore(lambda block: running_max_figure(row, block), block=(list(sizes), sizes[len(sizes) // 2]))


def memory_wall_figure(largest_batch: int, dim: int, limit_bytes: float = 16e9) -> Figure:
    """The static twin of `memory_wall`: predicted bytes from 256 pairs up to `largest_batch`, doubling."""
    batches = [2**k for k in range(8, max(9, largest_batch.bit_length()))]
    dense, tiled = ([_total(b, dim, name) for b in batches] for name in ("dense", "tiled"))
    return plots.memory_wall(batches, dense, tiled, limit_bytes)


def temperature_figure(similarities, scale: float) -> Figure:
    """The static twin of `temperature`: the softmax of one row, at scale 1 and at `scale`."""
    row = torch.as_tensor(similarities, dtype=torch.float64)
    return plots.temperature_effect({s: torch.softmax(s * row, 0) for s in dict.fromkeys((1.0, float(scale)))})


def tile_figure(batch: int, tile: int, visits: int) -> Figure:
    """The static twin of `tile_size`: the tiles of a `(batch, batch)` matrix after `visits` of them."""
    rows, cols = tile_grid(batch, batch, tile)
    order = [(i, j) for i in rows for j in cols]
    return plots.tile_order(batch, batch, order, upto=min(visits, len(order)))


def running_max_figure(logits, block: int) -> Figure:
    """The static twin of `running_max`: the first eight blocks of `block` logits and the state after each."""
    blocks = list(torch.as_tensor(logits, dtype=torch.float64).split(block))[: plots.LARGEST_FILM]
    states = [lse.of_block(blocks[0])]
    for part in blocks[1:]:
        states.append(lse.update(states[-1], part))
    return plots.running_max_film(blocks, states)


def _total(batch: int, dim: int, backend: str) -> int:
    return memory.predict_bytes(batch, dim, backend=backend)["total"]


def _slider(widgets, name: str, choice):
    values, start = choice if isinstance(choice, tuple) else (choice, choice[len(choice) // 2])
    if all(isinstance(value, str) for value in values):
        return widgets.Dropdown(options=values, value=start, description=name)
    return widgets.SelectionSlider(
        options=[(v if isinstance(v, str) else f"{v:,}", v) for v in values],
        value=start,
        description=name.replace("_", " "),
        continuous_update=False,
        style={"description_width": "initial"},
    )


def _ipywidgets():
    try:
        import ipywidgets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'ipywidgets is not installed, and sliders need it: run pip install -e ".[notebooks]" in the repository'
        ) from error
    return ipywidgets
