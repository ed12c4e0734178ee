"""Run the library's sums kernel at sizes small enough to draw, and keep a trace of what its programs did.

    row_table (GN, rows)    line gn: what the programs (., gn) added to each row
    col_table (GM, cols)    line gm: what the programs (gm, .) added to each column

where GM x GN is the grid of programs; the sums of exp(scale <img_i, txt_j> - shift) are `table.sum(0)`. The library
chooses grid and tile itself (`minilib.kernels.triton_launch`); here they are arguments, because a lesson wants 16 x 16
tiles.

Needs Triton with TRITON_INTERPRET=1: the trace is written by the interpreter, while the real kernel runs. Used in
notebooks/05_fuse_it_in_triton.ipynb.
"""

from operator import index

import torch
from torch import Tensor

from minilib.kernels import triton_launch as launch
from minilib.kernels import triton_tiles

STEP = 16  # features of one step along d, the least that a GPU's matrix units take


def partial_tables(
    img: Tensor, txt: Tensor, scale: float, shift: float, grid: tuple[int, int], tile: int
) -> tuple[Tensor, Tensor]:
    """The two tables of `triton_tiles.shifted_sums`, fp32, for contiguous fp32 features (rows, d) and (cols, d).

    All pairs are summed, the diagonal too. ValueError outside the interpreter.
    """
    if not launch.INTERPRETED:
        raise ValueError("Triton does not interpret here: set TRITON_INTERPRET=1 before it is first imported.")
    rows, cols, dim = len(img), len(txt), img.shape[1]
    row_table, col_table = torch.zeros(grid[1], rows), torch.zeros(grid[0], cols)
    numbers = torch.tensor([scale]), torch.tensor([shift])
    sizes = rows, cols, dim, img.stride(0), txt.stride(0), launch.NO_PARTNER
    triton_tiles.shifted_sums[grid](
        img, txt, *numbers, row_table, col_table, *sizes,
        BM=tile, BN=tile, BK=STEP, EVEN=dim % STEP == 0, PRECISION="ieee",
    )  # fmt: skip
    return row_table, col_table


def visits(rows: int, cols: int, grid: tuple[int, int], tile: int) -> list[tuple[tuple[int, int], slice, slice]]:
    """Who visits what: `((gm, gn), row slice, column slice)` for every tile, in the order of the visits."""
    import triton.language as tl

    trace, original = [], triton_tiles.logits_tile

    def noted(img, txt, scale, shift, i, j, *rest):
        program = tuple(map(index, (tl.program_id(0), tl.program_id(1))))
        trace.append((program, slice(int(i), min(int(i) + tile, rows)), slice(int(j), min(int(j) + tile, cols))))
        return original(img, txt, scale, shift, i, j, *rest)

    triton_tiles.logits_tile = noted
    try:
        partial_tables(torch.zeros(rows, STEP), torch.zeros(cols, STEP), 1.0, 0.0, grid, tile)
    finally:
        triton_tiles.logits_tile = original
    return trace
