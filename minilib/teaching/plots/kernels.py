"""Pictures of what GPU programs do: who owns which tile, which addresses a tile reads, how partial sums are folded.

Drawn from what kernels recorded: a trace of visits, the offsets and masks that a kernel stored, the tables it filled.
Used in notebook 05.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from minilib.teaching.plots.canvas import axes, box, canvas, label, numbers, same_length
from minilib.teaching.plots.palette import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, pale

OWNERS = (SKY, ORANGE, GREEN, PURPLE, VERMILLION, BLUE)
LARGEST_TABLE = 14  # entries in a line that can still be read


def program_map(
    rows: int, cols: int, visits: Sequence[tuple[tuple[int, int], slice, slice]], *, title: str | None = None
) -> Figure:
    """The `(rows, cols)` matrix in tiles, each with its program (gm, gn) and that program's own count of visits.

    `visits` are `((gm, gn), row slice, column slice)` in the order in which they happened.
    """
    same_length(visits=visits)
    programs = sorted({program for program, _, _ in visits})
    counts = dict.fromkeys(programs, 0)
    size = (6.4, round(1.0 + 5.2 * rows / cols, 1))
    figure = canvas(title or f"{len(programs)} programs share {len(visits)} tiles", "", size=size)
    panel = axes(figure, xlabel="text (column)", ylabel="image (row)")
    for program, i, j in visits:
        counts[program] += 1
        colour = pale(OWNERS[programs.index(program) % len(OWNERS)])
        told = f"{program[0]},{program[1]}\nvisit {counts[program]}" if len(visits) <= 64 else ""
        place = j.start, i.start, j.stop - j.start, i.stop - i.start
        box(panel, *place, told, facecolor=colour, edgecolor="white")
    panel.set(xlim=(0, cols), ylim=(rows, 0), aspect="equal")
    owned = len({(i.start, j.start) for _, i, j in visits}) == len(visits)
    told = "Every tile has one owner" if owned else "Some tiles are visited more than once"
    figure.alt_text = (
        f"A {rows} by {cols} matrix in {len(visits)} visits, coloured by the program that makes them. {told}; the "
        f"{len(programs)} programs are dealt out in turn along rows and columns, visits per program: "
        f"{_range(counts.values())}."
    )
    return figure


def masked_pointers(tiles: Mapping[tuple[int, int], tuple], *, title: str | None = None) -> Figure:
    """The lanes of each program's tile with the offset that the lane points at; masked lanes are hatched.

    `tiles` maps a program (i, j) to `(offsets, inside)`, integers and booleans of one shape (BM, BN).
    """
    same_length(tiles=tiles)
    down, across = (1 + max(program[axis] for program in tiles) for axis in (0, 1))
    masked = sum(int((~np.asarray(inside, dtype=bool)).sum()) for _, inside in tiles.values())
    lanes = sum(np.asarray(inside).size for _, inside in tiles.values())
    alt = (
        f"{len(tiles)} programs, each with a tile of lanes; every lane shows the offset it points at. "
        f"{masked} of {lanes} lanes jut out of the matrix: they are hatched, because the mask switches them off."
    )
    figure = canvas(title or f"{masked} of {lanes} lanes are switched off", alt, size=(2.9 * across, 0.6 + 1.7 * down))
    for (i, j), (offsets, inside) in tiles.items():
        panel = axes(figure, down, across, i * across + j + 1, xlabel=f"program ({i}, {j})")
        offsets, inside = numbers(offsets), numbers(inside).astype(bool)
        for (m, n), offset in np.ndenumerate(offsets):
            on = inside[m, n]
            look = {"facecolor": pale(BLUE)} if on else {"facecolor": "white", "hatch": "////"}
            box(panel, n, m, 1, 1, edgecolor=GREY, **look)
            paper = None if on else {"facecolor": "white", "edgecolor": "none", "pad": 1}
            label(panel, f"{offset:.0f}", n + 0.5, m + 0.5, xytext=(0, 0), ha="center", fontsize=9, bbox=paper)
        panel.set(xlim=(0, offsets.shape[1]), ylim=(offsets.shape[0], 0), xticks=[], yticks=[])
    return figure


def partial_tables(row_table, col_table, *, title: str | None = None) -> Figure:
    """Two tables of partial sums, (GN, rows) and (GM, cols), each with the sum of its lines below.

    ValueError for more than 14 rows or columns: the figure prints every entry.
    """
    tables = {"row sums": numbers(row_table), "column sums": numbers(col_table)}
    for name, table in tables.items():
        if table.ndim != 2 or table.shape[1] > LARGEST_TABLE:
            raise ValueError(f"the table of {name} has shape {table.shape}: pass (lines, at most {LARGEST_TABLE}).")
    lines = " and ".join(f"{len(table)} lines of {name}" for name, table in tables.items())
    alt = f"Two tables of partial sums, {lines}, one entry per cell. The line below each table adds its lines: "
    alt += "no entry was written by two programs, so nothing had to be locked."
    height = 1.6 + 0.36 * sum(len(table) + 1 for table in tables.values())
    heading = "Each program writes its own line; the lines are added afterwards"
    figure = canvas(title or heading, alt, size=(7.4, height))
    grid = figure.add_gridspec(2, 1, height_ratios=[len(table) + 1 for table in tables.values()])
    for where, (name, table), letter in zip(grid, tables.items(), ("gn", "gm")):
        panel = axes(figure, where, xlabel="image (row)" if letter == "gn" else "text (column)")
        every = np.vstack([table, table.sum(0)])
        for (line, entry), value in np.ndenumerate(every):
            total = line == len(table)
            colour = pale(GREY) if total else pale(OWNERS[line % len(OWNERS)], 0.35)
            box(panel, entry, line, 1, 1, f"{value:.1f}", facecolor=colour, edgecolor="white")
        panel.axhline(len(table), color=GREY, linewidth=2)
        panel.set(xlim=(0, table.shape[1]), ylim=(len(every), 0), xticks=np.arange(table.shape[1]) + 0.5)
        panel.set_xticklabels(range(table.shape[1]))
        panel.set_yticks(np.arange(len(every)) + 0.5, [f"{letter} = {k}" for k in range(len(table))] + [name])
        panel.tick_params(length=0)
    return figure


def tile_film(frames: Mapping[str, object], *, title: str | None = None) -> Figure:
    """Matrices side by side, each named and in shades of its own largest entry, which stands below it.

    `frames` maps a name to a matrix `(rows, cols)`; blue is negative, red positive.
    """
    same_length(frames=frames)
    matrices = {name: numbers(matrix) for name, matrix in frames.items()}
    shapes = {matrix.shape for matrix in matrices.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"frames have shapes {sorted(shapes)}: pass matrices of one shape (rows, cols).")
    rows, cols = shapes.pop()
    alt = f"Strip of {len(frames)} matrices of {rows} by {cols}: {'; '.join(frames)}. "
    alt += "Each is shaded by its own largest entry, red above zero, blue below."
    if rows == cols:
        shares = [np.mean(matrix.argmax(1) == np.arange(rows)) for matrix in matrices.values()]
        alt += f" Rows that are largest on the diagonal: {shares[0]:.0%} in the first, {shares[-1]:.0%} in the last."
    figure = canvas(title or " → ".join(frames), alt, size=(0.4 + 2.3 * len(frames), round(1.3 + 2.0 * rows / cols, 1)))
    for k, (name, matrix) in enumerate(matrices.items()):
        panel = axes(figure, 1, len(frames), k + 1, xlabel=f"{name}\nlargest {abs(matrix).max():.2g}")
        panel.imshow(matrix, cmap="RdBu_r", vmin=-abs(matrix).max(), vmax=abs(matrix).max(), interpolation="nearest")
        panel.set(xticks=[], yticks=[])
    return figure


def _range(counts) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def lane_use(memories: Sequence, *, title: str | None = None) -> Figure:
    """The memory of each tensor, one cell per number, in the colour of the program that used it last.

    `memories` come from `minilib.teaching.lanes.watch`. A cell says how often it was loaded (L) and stored (S); lanes
    that were on and reached outside stand behind the end, hatched.
    """
    same_length(memories=memories)
    told = {memory.name: _use(memory) for memory in memories}
    programs = sorted({access.program for memory in memories for access in memory.accesses})
    lanes = [access for memory in memories for access in memory.accesses]
    masked, outside = (
        sum(int((~a.on).sum()) for a in lanes),
        sum(len(m.outside(a)) for m in memories for a in m.accesses),
    )
    alt = f"Memory of {' and '.join(told)}, a cell for each number. " + _told(programs, told, masked, outside)
    heights = [max(1, len(memory.values) // memory.width) + 0.8 for memory in memories]
    figure = canvas(
        title or _told(programs, told, masked, outside, short=True), alt, size=(7.4, 0.8 + 0.5 * sum(heights))
    )
    grid = figure.add_gridspec(len(memories), 1, height_ratios=heights)
    for where, memory in zip(grid, memories):
        panel = axes(figure, where, ylabel=memory.name)
        loaded, stored, owner = told[memory.name]
        for k in range(len(memory.values)):
            colour = pale(OWNERS[programs.index(owner[k]) % len(OWNERS)]) if k in owner else "white"
            marks = "\n".join(
                f"{letter}{n if n > 1 else ''}" for letter, n in (("L", loaded[k]), ("S", stored[k])) if n
            )
            box(panel, k % memory.width, k // memory.width, 1, 1, marks, facecolor=colour, edgecolor=GREY)
        reached = sorted({int(k) for access in memory.accesses for k in memory.outside(access)})
        last = len(memory.values) // memory.width - 1
        for place, k in enumerate(reached):
            box(
                panel,
                memory.width + 0.5 + place,
                last,
                1,
                1,
                str(k),
                facecolor="white",
                edgecolor=VERMILLION,
                hatch="////",
            )
        panel.set(xlim=(0, memory.width + 0.5 + len(reached)), ylim=(last + 1, 0), xticks=[], yticks=[])
    return figure


def _use(memory) -> tuple[np.ndarray, np.ndarray, dict]:
    """How often each number was loaded and stored, and the program that used it last."""
    counts, owner = {kind: np.zeros(len(memory.values), dtype=int) for kind in ("load", "store")}, {}
    for access in memory.accesses:
        for k in access.offsets[access.on & (access.offsets >= 0) & (access.offsets < len(memory.values))]:
            counts[access.kind][k] += 1
            owner[int(k)] = access.program
    return counts["load"], counts["store"], owner


def _told(programs: list, told: dict, masked: int, outside: int, short: bool = False) -> str:
    if not programs:
        return "This kernel has not touched memory yet" + ("" if short else ".")
    loads, stores = (sum(int((use[k] > 0).sum()) for use in told.values()) for k in (0, 1))
    if short:
        return f"{loads} numbers loaded, {stores} stored, {masked} lanes masked, {outside} outside"
    return (
        f"{len(programs)} programs load {loads} numbers and store {stores}; {masked} lanes are switched off by a mask, "
        f"and {outside} reach outside."
    )
