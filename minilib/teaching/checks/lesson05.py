"""Checks of lesson 05, fuse it in Triton: five small kernels, from a masked sum to a chunk of the gradient.

A learner writes a kernel and the function that launches it; the check calls the function. Kernels write through bare
pointers, so inputs and results lie in memory of the check's own, which shows what was read or written outside
(`guarded`). Triton itself is not imported here. Judge: fp64, at most 1e-5 of the largest entry.

Solutions: `logits_tile`, `shifted_sums` and `softmax_grads` in `minilib/kernels/triton_tiles.py`; the two steps before
them are folded in notebooks/05_fuse_it_in_triton.ipynb.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minilib.teaching.checks import guarded
from minilib.teaching.checks.contract import close, compare, run
from minilib.teaching.repro import random_features

TOL, TILE = 1e-5, 16
SCALE, SHIFT, LOG2E = 3.0, 1.5, 1.4426950408889634


def check_block_sums(learner: Callable[[Tensor, int], Tensor]) -> None:
    """Exercise: `block_sums(x, block)`, the sums of blocks of `x (n,)`, shape `(ceil(n / block),)`."""
    cases = {
        "for 8 numbers in blocks of 4": lambda fn: _blocks(fn, 8, 4),
        "for 10 numbers in blocks of 4": lambda fn: _blocks(fn, 10, 4),
        "for 1,000 numbers in blocks of 64": lambda fn: _blocks(fn, 1000, 64),
    }
    run(learner, cases, "every program finds its own block by its number, and the mask ends the last one")


def check_scale_matrix(learner: Callable[[Tensor, float, Tensor, int], None]) -> None:
    """Exercise: `scale_matrix(x, factor, out, tile)` writes `factor * x` to `out`, both `(rows, cols)`."""
    cases = {
        "for 8 by 8 in tiles of 4": lambda fn: _scaled(fn, 8, 8, 4),
        "for 5 by 7 in tiles of 4": lambda fn: _scaled(fn, 5, 7, 4),
        "for 33 by 20 in tiles of 16": lambda fn: _scaled(fn, 33, 20, 16),
    }
    run(learner, cases, "row times stride plus column is all that a matrix is, wherever it lies in memory")


def check_tile_logits(learner: Callable[[Tensor, Tensor, float, Tensor, int], None]) -> None:
    """Exercise: `tile_logits(img, txt, scale, out, tile)` writes `scale * img @ txt.T` to `out (rows, cols)`."""
    cases = {
        "for 16 images, 16 texts and d = 16": lambda fn: _logits(fn, 16, 16, 16),
        "for 32 images, 48 texts and d = 32": lambda fn: _logits(fn, 32, 48, 32),
        "for 20 images, 37 texts and d = 40": lambda fn: _logits(fn, 20, 37, 40),
    }
    run(learner, cases, "a tile of logits needs two strips of features and never more of d than one step at a time")


def check_both_sums(learner: Callable[[Tensor, Tensor, float, float, Tensor, Tensor, int], None]) -> None:
    """Exercise: `both_sums(img, txt, scale, shift, row_table, col_table, tile)` fills both tables of partial sums.

    `row_table (GN, rows)` and `col_table (GM, cols)` come filled with zeros; the grid is GM x GN.
    """
    cases = {
        "for 32 images, 32 texts and one program": lambda fn: _tables(fn, 32, 32, 1, 1),
        "for 64 images, 64 texts and a grid of 2 by 3": lambda fn: _tables(fn, 64, 64, 2, 3),
        "for 41 images, 57 texts and a grid of 2 by 3": lambda fn: _tables(fn, 41, 57, 2, 3),
    }
    run(learner, cases, "one visit gives both directions, and no two programs ever write to one place")


def check_gradient_chunk(learner: Callable[[Tensor, Tensor, float, float, Tensor, Tensor, Tensor, int], None]) -> None:
    """Exercise: `gradient_chunk(img, txt, scale, shift, a, c, out, tile)` writes G `(rows, cols)` to `out`.

    G_ij = exp(X_ij - shift) (a_i + c_j), with `a (rows,)` and `c (cols,)`.
    """
    cases = {
        "for 32 images and 32 texts": lambda fn: _chunk(fn, 32, 32),
        "for 41 images and 57 texts": lambda fn: _chunk(fn, 41, 57),
    }
    run(learner, cases, "one exponential serves both directions of the gradient, and G is all the products need")


def _blocks(fn: Callable, n: int, block: int) -> str | None:
    x = guarded.source(torch.arange(1.0, n + 1)[None] if n < 100 else _noise(1, n))[0]
    pieces = x.split(block)
    want = torch.stack([piece.double().sum() for piece in pieces])
    starts = torch.stack([x[p : p + block].double().sum() for p in range(len(pieces))])
    suspects = {
        "every program summed the first block: start at tl.program_id(0) * block": want[0].expand(len(want)),
        "program p starts at number p: it should start at p * block": starts,
    }
    got = fn(x, block)
    if isinstance(got, Tensor) and got.shape == (n // block,) and n % block:
        return "the last block is missing: round the number of programs up, as triton.cdiv does"
    if isinstance(got, Tensor) and got.isnan().any():
        return "NaN came in: a lane behind the end was read, so give the load a mask and other=0.0"
    return compare(got, want, suspects, TOL)


def _scaled(fn: Callable, rows: int, cols: int, tile: int) -> str | None:
    x = guarded.source(_noise(rows, cols))
    out, intact = guarded.target(rows, cols, extra=3)  # another stride than that of x
    fn(x, 2.5, out, tile)
    want, got = 2.5 * x.double(), out.clone()
    read = 2.5 * x.as_strided((rows, cols), (cols, 1))  # rows that lie behind one another
    for view, hint in (
        (out.as_strided((rows, cols), (cols, 1)), "the rows of out start out.stride(0) apart, not cols apart"),
        (out.as_strided((rows, cols), x.stride()), "out has a stride of its own: use out.stride(0) for the store"),
    ):
        if close(view, want, TOL) and not close(got, want, TOL):
            return hint
    if torch.allclose(got, read, equal_nan=True):
        return "the rows of x start x.stride(0) apart, not cols apart"
    return _written(got, want, intact, {"the factor is missing": x})


def _logits(fn: Callable, rows: int, cols: int, dim: int) -> str | None:
    img, txt = _noise(rows, dim), _noise(cols, dim, seed=1)
    out, intact = guarded.target(rows, cols)
    fn(guarded.source(img), guarded.source(txt, extra=3), SCALE, out, TILE)
    parts = [i.double() @ t.double().T for i, t in zip(img.split(TILE, 1), txt.split(TILE, 1), strict=True)]
    want = SCALE * sum(parts)
    each = sum(SCALE ** (len(parts) - k) * part for k, part in enumerate(parts))
    suspects = {
        "the scale is missing": want / SCALE,
        "the scale is applied at every step along d: multiply once, after the loop": each,
        "only the first step along d is there: loop over d and move both pointers": SCALE * parts[0],
        "the same 16 features are multiplied at every step: move both pointers": len(parts) * SCALE * parts[0],
        "only the last step along d is there: add each product to the accumulator": SCALE * parts[-1],
    }
    return _written(out.clone(), want, intact, suspects)


def _tables(fn: Callable, rows: int, cols: int, gm: int, gn: int) -> str | None:
    img, txt = _features(rows, cols)
    (row_table, rows_intact), (col_table, cols_intact) = guarded.table(gn, rows), guarded.table(gm, cols)
    fn(img, txt, SCALE, SHIFT, row_table, col_table, TILE)
    if not (rows_intact() and cols_intact()):
        return "numbers were written behind a table: mask both stores with row < rows and col < cols"
    got, logits = (row_table.clone(), col_table.clone()), SCALE * img.double() @ txt.double().T  # (rows, cols)
    exps = torch.exp(logits - SHIFT)
    rounds = torch.arange(rows) // TILE, torch.arange(cols) // TILE  # the block of each row, of each column
    twice = (rounds[0] + 1).clamp(max=gm)[:, None], (rounds[1] + 1).clamp(max=gn)  # visits, with steps of one tile
    rows_again = "row blocks are visited more than once: step by tl.num_programs(0) * tile"
    cols_again = "column blocks are visited more than once: step by tl.num_programs(1) * tile"
    both_again = "blocks of both kinds are visited more than once: step by tl.num_programs(axis) * tile"
    every = "every program visits all tiles: start at its own block and step by the number of programs"
    suspects = {
        "both tables are still zero: does the function launch the kernel?": (0 * exps, 0 * exps),
        "the tile is in base 2: take tl.exp2 of it, not tl.exp": (torch.exp(LOG2E * (logits - SHIFT)),) * 2,
        "the shift is missing: give it to logits_tile": (torch.exp(logits),) * 2,
        rows_again: (exps, exps * twice[0]),
        cols_again: (exps * twice[1],) * 2,
        both_again: (exps * twice[1], exps * twice[0] * twice[1]),
        every: (exps * gn, exps * gm * gn),
    }
    suspects = {hint: (for_rows.sum(1), for_cols.sum(0)) for hint, (for_rows, for_cols) in suspects.items()}
    want = _split(exps, rounds, gm, gn)
    replaced = _split(exps, rounds, gm, gn, last=True)
    suspects |= {
        "the column sums are replaced at every row block: load what is there and add": _sums(want[0], replaced[1]),
        "the row sums are replaced at every tile: add in registers, store after the loop": _sums(replaced[0], want[1]),
        "the row sums are still zero": _sums(0 * want[0], want[1]),
        "the column sums are still zero": _sums(want[0], 0 * want[1]),
    }
    misplaced = None if close(got, want, TOL) else "the sums are right, but rows go to line gn and columns to line gm"
    return compare(_sums(*got), _sums(*want), suspects, TOL) or misplaced


def _split(exps: Tensor, rounds: tuple, gm: int, gn: int, last: bool = False) -> tuple[Tensor, Tensor]:
    """The tables (GN, rows) and (GM, cols) of exact sums; with `last`, of each program's last block only."""
    tables = []
    for entries, block, count in ((exps.T, rounds[1], gn), (exps, rounds[0], gm)):
        ends = [max(range(k, int(block[-1]) + 1, count)) for k in range(count)]
        lines = [block == ends[k] if last else block % count == k for k in range(count)]
        tables.append(torch.stack([entries[line].sum(0) for line in lines]))
    return tuple(tables)


def _sums(row_table: Tensor, col_table: Tensor) -> tuple[Tensor, Tensor]:
    return row_table.sum(0), col_table.sum(0)


def _chunk(fn: Callable, rows: int, cols: int) -> str | None:
    img, txt = _features(rows, cols)
    a, c = (guarded.source(_noise(1, size, seed=2).abs() + 0.1)[0] for size in (rows, cols))
    out, intact = guarded.target(rows, cols)
    fn(img, txt, SCALE, SHIFT, a, c, out, TILE)
    logits, both = SCALE * img.double() @ txt.double().T, a.double()[:, None] + c.double()
    exps = torch.exp(logits - SHIFT)
    suspects = {
        "the tile is in base 2: take tl.exp2 of it, not tl.exp": torch.exp(LOG2E * (logits - SHIFT)) * both,
        "the shift is missing: give it to logits_tile": torch.exp(logits) * both,
        "a and c are multiplied: both directions add up, so G holds a_i + c_j": exps * a[:, None] * c,
        "only the rows are there: add c_j": exps * a[:, None],
        "only the columns are there: add a_i": exps * c,
    }
    return _written(out.clone(), exps * both, intact, suspects)


def _written(got: Tensor, want: Tensor, intact: Callable[[], bool], suspects: dict) -> str | None:
    """The hint for what a kernel has written: outside first, then what is missing or poisoned, then its numbers."""
    if not intact():
        return "numbers were written outside the matrix: give the store a mask"
    if torch.isinf(got).all():
        return "nothing was written: does the function launch the kernel, and does the kernel store?"
    if torch.isnan(got).any():
        return "NaN from outside is in the result: give the loads a mask for every ragged edge, and other=0.0"
    if torch.isinf(got).any():
        return "some entries were never written: every program needs rows and columns of its own"
    return compare(got, want, suspects, TOL)


def _features(rows: int, cols: int) -> tuple[Tensor, Tensor]:
    """Contiguous unit rows (rows, 32) and (cols, 32), with rows of NaN behind them."""
    sides = random_features(max(rows, cols), 32)
    return tuple(guarded.rows_before_nan(side[:size]) for side, size in zip(sides, (rows, cols)))


def _noise(rows: int, cols: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed + 7 * rows + cols))
