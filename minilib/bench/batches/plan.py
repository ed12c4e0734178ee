"""Which runs the experiment on batch sizes wants, in the order of their worth, given those that are finished.

    cell         data, pairs, batch, budget, masked: what is compared
    run          a cell under one learning rate, one draw of the data and one seed
    grid         every learning rate of a cell, draw 0, seed 0; where the best lies at an edge, the next one beyond it
    replicate    the cell at its best learning rate, under another draw or another seed

The best learning rate is that of the highest recall on validation pairs. A cell of the arm with masked false negatives
takes the learning rate of the same cell without mask. Nothing here runs anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

# A run on 10,240 pairs takes 24 CPU seconds in batches of 512 and 75 in batches of 32, one on 40,960 one to eight
# minutes. The plan is some 490 runs and eight CPU hours; its first two stages, which answer the question for glyphs,
# are three of them.
SIZES = [2_048, 10_240, 40_960]
FULL = {
    "stages": [
        {"kind": "grid", "data": "glyphs", "pairs": [10_240, 2_048, 40_960]},
        {"kind": "replicate", "data": "glyphs", "pairs": SIZES, "replicates": [[1, 1], [2, 2]]},
        {"kind": "replicate", "data": "glyphs", "pairs": SIZES[:2], "masked": True,
         "replicates": [[0, 0], [1, 1], [2, 2]]},
        {"kind": "grid", "data": "glyphs", "pairs": SIZES[:2], "budget": "steps"},
        {"kind": "replicate", "data": "glyphs", "pairs": SIZES, "best": 3,
         "replicates": [[0, 1], [0, 2], [0, 3], [0, 4]]},
        {"kind": "replicate", "data": "glyphs", "pairs": SIZES[:2], "budget": "steps",
         "replicates": [[1, 1], [2, 2]]},
        {"kind": "grid", "data": "scenes", "pairs": [10_240, 2_048]},
        {"kind": "replicate", "data": "scenes", "pairs": SIZES[:2], "replicates": [[1, 1], [2, 2]]},
        {"kind": "grid", "data": "scenes", "pairs": SIZES[2:]},
        {"kind": "replicate", "data": "scenes", "pairs": SIZES[2:], "replicates": [[1, 1], [2, 2]]},
        # one batch of all pairs learns nothing in eight steps
        {"kind": "replicate", "data": "glyphs", "pairs": SIZES[2:], "masked": True, "most": 4_096,
         "replicates": [[0, 0], [1, 1], [2, 2]]},
        # the best batch of 2,048 pairs: "larger" can be told only where it was tried too
        {"kind": "grid", "data": "scenes", "pairs": SIZES[2:], "batches": [32]},
        {"kind": "replicate", "data": "scenes", "pairs": SIZES[2:], "batches": [32], "replicates": [[1, 1], [2, 2]]},
    ],
    "batches": {
        "2048": [16, 32, 64, 128, 256, 512, 2_048],
        "10240": [32, 64, 128, 256, 512, 2_048, 10_240],
        "40960": [64, 128, 256, 512, 1_024, 4_096, 40_960],
    },
    "lrs": [4e-3, 8e-3, 1.6e-2, 3.2e-2], "lr_limits": [2.5e-4, 0.256],
    "epochs": 8, "steps": 60, "width": 32, "dim": 64, "image_size": 32, "micro_batch_size": 2_048,
    "validation": 500, "test": 600,
}  # fmt: skip
QUICK = {
    "stages": [
        {"kind": "grid", "data": "glyphs", "pairs": [64, 128]},
        {"kind": "replicate", "data": "glyphs", "pairs": [64], "masked": True, "replicates": [[1, 1]]},
        {"kind": "replicate", "data": "glyphs", "pairs": [64, 128], "best": 1, "replicates": [[1, 1]]},
    ],
    "batches": {"64": [16, 64], "128": [32, 128]},
    "lrs": [2e-3, 8e-3], "lr_limits": [2e-3, 8e-3], "epochs": 2, "steps": 2, "width": 8, "dim": 8,
    "micro_batch_size": 64, "validation": 30, "test": 40,
}  # fmt: skip
# A file goes on with these settings alone; what else is wanted of its runs may change.
COMPARED = ("epochs", "steps", "width", "dim", "image_size", "micro_batch_size", "validation", "test")


class Cell(NamedTuple):
    """What is compared. `budget`: equal "epochs" or equal "steps"; `masked`: false negatives are left out."""

    data: str
    pairs: int
    batch: int
    budget: str = "epochs"
    masked: bool = False


class Run(NamedTuple):
    """One training."""

    cell: Cell
    lr: float
    draw: int = 0
    seed: int = 0


def run_of(record: dict[str, Any]) -> Run:
    """The run of a record."""
    return Run(cell_of(record), record["lr"], record["draw"], record["seed"])


def cell_of(record: dict[str, Any]) -> Cell:
    """The cell of a record."""
    return Cell(*(record[name] for name in Cell._fields))


def wanted(settings: dict[str, Any], records: list[dict[str, Any]]) -> Iterator[Run]:
    """Every run that can be named by now, in the order of its worth, finished ones too, none twice."""
    scores = {run_of(record): record["validation"] for record in records}
    seen: set[Run] = set()
    for stage in settings["stages"]:
        for pairs in stage["pairs"]:
            cells = _cells(settings, stage, pairs)
            if "best" in stage:
                cells = _best(cells, settings, scores, records, stage["best"])
            for run in (run for cell in cells for run in _runs(cell, stage, settings, scores)):
                if run not in seen:
                    seen.add(run)
                    yield run


def best_lr(cell: Cell, settings: dict[str, Any], scores: dict[Run, float]) -> float | None:
    """The learning rate that won the grid of the cell; None as long as a part of the grid is missing."""
    cell = cell._replace(masked=False)
    lrs = _grid(cell, settings, scores)
    if any(Run(cell, lr) not in scores for lr in lrs):
        return None
    return max(lrs, key=lambda lr: scores[Run(cell, lr)])  # of equals the smallest


def batches(settings: dict[str, Any], data: str, pairs: int, budget: str = "epochs") -> list[int]:
    """Every batch size that has a grid of learning rates there."""
    grids = (stage for stage in settings["stages"] if stage["kind"] == "grid" and pairs in stage["pairs"])
    cells = (cell for stage in grids for cell in _cells(settings, stage, pairs))
    return sorted({cell.batch for cell in cells if (cell.data, cell.budget) == (data, budget)})


def _cells(settings: dict[str, Any], stage: dict[str, Any], pairs: int) -> list[Cell]:
    budget, masked = stage.get("budget", "epochs"), stage.get("masked", False)
    sizes = stage.get("batches", settings["batches"][str(pairs)])
    return [Cell(stage["data"], pairs, b, budget, masked) for b in sizes if b <= stage.get("most", b)]


def _runs(cell: Cell, stage: dict[str, Any], settings: dict[str, Any], scores: dict[Run, float]) -> list[Run]:
    if stage["kind"] == "grid":
        return [Run(cell, lr) for lr in _grid(cell, settings, scores)]
    lr = best_lr(cell, settings, scores)
    return [] if lr is None else [Run(cell, lr, draw, seed) for draw, seed in stage["replicates"]]


def _grid(cell: Cell, settings: dict[str, Any], scores: dict[Run, float]) -> list[float]:
    """The learning rates of a cell in ascending order, so far; beyond an edge that has won there is one more."""
    lrs, (least, most) = sorted(settings["lrs"]), settings["lr_limits"]
    while all(Run(cell, lr) in scores for lr in lrs):
        best = max(lrs, key=lambda lr: scores[Run(cell, lr)])
        if best == lrs[0] and best / 2 >= least:
            lrs.insert(0, best / 2)
        elif best == lrs[-1] and 2 * best <= most:
            lrs.append(2 * best)
        else:
            break
    return lrs


def _best(cells: list[Cell], settings, scores: dict[Run, float], records, count: int) -> list[Cell]:
    """The `count` cells of the highest mean score so far; none as long as one of them has no learning rate."""
    means = {}
    for cell in cells:
        lr = best_lr(cell, settings, scores)
        if lr is None:
            return []
        found = [scores[run] for run in scores if run.cell == cell and run.lr == lr]
        means[cell] = sum(found) / len(found)
    return sorted(means, key=means.get, reverse=True)[:count]
