"""With several CPU threads the tiles are shared out; the result is that of one thread, and the same in every run.

No two threads add to the same row or column in a round, so nothing depends on which one was faster.
"""

import os

import pytest
import torch
from support.reference import assert_close, unit_rows, value_and_grads

from minilib import clip_loss, siglip_loss
from minilib.kernels.contrastive_tiled import tile_grid
from minilib.kernels.cpu_threads import share_tiles

LOSSES = {
    "clip": lambda *a: clip_loss(*a, backend="tiled", tile_size=32, cache_bytes=0),
    "clip, cached": lambda *a: clip_loss(*a, backend="tiled", tile_size=32, cache_bytes=20_000),
    "clip, any logits": lambda img, txt, s: clip_loss(img, txt, 30 * s, backend="tiled", tile_size=32),
    "siglip": lambda img, txt, s: siglip_loss(img, txt, s, -10.0, backend="tiled", tile_size=32),
}


@pytest.fixture
def threads():
    """A function that sets torch's threads; one thread again afterwards."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


def inputs(dtype=torch.float64, rows=200):
    return unit_rows(rows, 16, 1, dtype), unit_rows(rows, 16, 2, dtype), torch.tensor(14.3, dtype=dtype)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_several_threads_give_the_value_and_gradients_of_one(threads, loss, count):
    alone = value_and_grads(LOSSES[loss], *inputs())
    threads(count)
    assert_close(value_and_grads(LOSSES[loss], *inputs()), alone, 1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_ten_runs_are_equal_to_the_bit(threads, loss):
    threads(2)
    first, *others = (value_and_grads(LOSSES[loss], *inputs(torch.float32)) for _ in range(10))
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_tile_is_visited_once_and_no_round_shares_a_row_or_a_column(threads, count):
    threads(count)
    rows, cols = tile_grid(200, 330, 32)
    lists = share_tiles(lambda tiles: tiles, rows, cols, torch.device("cpu"))
    assert sorted((i.start, j.start) for tiles in lists for i, j in tiles) == [
        (i.start, j.start) for i in rows for j in cols
    ]
    for start in range(0, len(lists), count):
        of_round = lists[start : start + count]
        for side in (0, 1):
            used = [{tile[side].start for tile in tiles} for tiles in of_round]
            assert sum(map(len, used)) == len(set.union(*used))


def test_the_settings_of_the_caller_stay_as_they_were(threads):
    threads(2)
    LOSSES["clip"](*inputs())
    assert torch.get_num_threads() == 2
    threads(3)
    LOSSES["clip"](*inputs())
    assert torch.get_num_threads() == 3


def test_an_error_of_one_thread_reaches_the_caller(threads):
    def fold(tiles):
        raise ArithmeticError("a tile went wrong")

    threads(2)
    with pytest.raises(ArithmeticError, match="a tile went wrong"):
        share_tiles(fold, *tile_grid(200, 200, 32), torch.device("cpu"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork processes")
def test_a_forked_child_can_call_the_loss(threads):
    threads(2)
    expected = LOSSES["clip"](*inputs()).item()  # the parent's threads exist now, and a child does not inherit them
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        torch.set_num_threads(1)  # as torch's data loaders do: with more, torch's own operators hang after a fork
        os.write(write, repr(LOSSES["clip"](*inputs()).item()).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert float(pipe.read()) == pytest.approx(expected, abs=1e-12)
    os.waitpid(child, 0)
