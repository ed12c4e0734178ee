"""Checks of lesson 14, leave one machine: own rows, averages of gradients, bytes of a gather, a memory cell, overlap.

Solutions: `part_of` in `minilib.trainers.contrastive`, and `wire_parts`, `loss_parts` and `overlapped` in
`minilib.teaching.cost_model`. The judge of the average is autograd on all rows at once.
"""

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral

import torch
from torch import Tensor

from minilib.teaching.checks.contract import MISSING, compare, run
from minilib.teaching.cost_model import GB


def check_own_part(learner: Callable[[Mapping[str, str], int], tuple[int, int]]) -> None:
    """Exercise: `own_part(environ, batch)`, first row of this process and the row after its last."""
    cases = {
        "for rank 1 of 2 and 12 rows": lambda fn: _part(fn, 1, 1, 2, 12),
        "for rank 5 of 8 on the second of two machines": lambda fn: _part(fn, 5, 1, 8, 64),
        "for 10 rows on 4 ranks": lambda fn: _all_parts(fn, 4, 10),
        "for one rank": lambda fn: _part(fn, 0, 0, 1, 7),
    }
    run(learner, cases, "RANK counts over all machines, LOCAL_RANK over the GPUs of one, and no row is lost")


def check_average_gradients(learner: Callable[[Sequence[Tensor], Sequence[int]], Tensor]) -> None:
    """Exercise: `average_gradients(gradients, counts)`, the gradient of the mean over all rows."""
    cases = {
        "for parts of 4 and 4 rows": lambda fn: _average(fn, [4, 4]),
        "for parts of 5, 1 and 3 rows": lambda fn: _average(fn, [5, 1, 3]),
        "for one rank": lambda fn: _average(fn, [6]),
    }
    run(learner, cases, "a rank weighs as much as it has rows; with equal parts that is the plain average of DDP")


def check_gather_bytes(learner: Callable[[int, int, int], float]) -> None:
    """Exercise: `gather_bytes(batch, dim, ranks)`, both sides gathered, both gradients added up, all in fp32."""
    cases = {
        "for 1,024 pairs of width 64 on 4 ranks": lambda fn: _gather(fn, 1024, 64, 4),
        "for 4,096 pairs of width 32 on 32 ranks": lambda fn: _gather(fn, 4096, 32, 32),
        "for one rank": lambda fn: _gather(fn, 256, 16, 1),
    }
    run(learner, cases, "a gather sends 16 (W - 1) / W bytes per element of b x d, our ring 12, for less memory")


def check_loss_gigabytes(learner: Callable[[int, int, int], float]) -> None:
    """Exercise: `loss_gigabytes(batch, dim, gpus)`, the loss of OpenCLIP in the GB of the tables."""
    cases = {
        "for 64k pairs of width 768 on 8 GPUs": lambda fn: _gigabytes(fn, 65_536, 768, 8),
        "for 360k pairs of width 512 on 32 GPUs": lambda fn: _gigabytes(fn, 368_640, 512, 32),
        "for one GPU": lambda fn: _gigabytes(fn, 32_768, 768, 1),
    }
    run(learner, cases, "8.62 where Table 1 says 8.63, and nothing was fitted")


def check_ring_seconds(learner: Callable[[float, float, int], float]) -> None:
    """Exercise: `ring_seconds(work, transfer, ranks)`, transfers posted before the work on each block."""
    cases = {
        "when a transfer is longer than the work": lambda fn: _seconds(fn, 4.0, 5.0, 3),
        "when the work is longer": lambda fn: _seconds(fn, 3.0, 1.0, 8),
        "for one rank": lambda fn: _seconds(fn, 2.0, 7.0, 1),
    }
    run(learner, cases, "the longer of the two sets the pace, and behind the last block nothing travels")


def _part(fn: Callable, rank: int, local: int, ranks: int, batch: int) -> str | None:
    if (got := fn(_environ(rank, local, ranks), batch)) is None:
        return MISSING

    def rows(place: int) -> tuple[int, int]:
        return place * batch // ranks, (place + 1) * batch // ranks

    start, stop = rows(rank)
    if hint := _broken([got]):
        return hint
    suspects = {
        "that is the part of LOCAL_RANK: several machines would take the same rows": rows(local),
        "that is the rank before: ranks count from 0": rows(rank - 1),
        "the second number is how many rows there are: give the row after the last": (start, stop - start),
        "the second number is the last row: give the row after it": (start, stop - 1),
        "every process takes all rows": (0, batch),
    }
    return compare(tuple(got), (start, stop), suspects if ranks > 1 else {})


def _all_parts(fn: Callable, ranks: int, batch: int) -> str | None:
    parts = [fn(_environ(rank, rank, ranks), batch) for rank in range(ranks)]
    if hint := _broken(parts):
        return hint
    covered = [row for start, stop in parts for row in range(start, stop)]
    if covered != list(range(batch)):
        lost = len(set(range(batch)) - set(covered))
        return (f"{lost} rows belong to nobody" if lost else "a row is taken twice") + ": let the parts meet"
    sizes = [stop - start for start, stop in parts]
    return None if max(sizes) - min(sizes) <= 1 else f"the parts have {sizes} rows: let them differ by one at most"


def _broken(parts: list[tuple[int, int]]) -> str | None:
    """A hint where a row is no whole number: such an end of a part cannot cut a tensor."""
    ends = [end for part in parts for end in part if not isinstance(end, Integral)]
    return f"a row is a {type(ends[0]).__name__}: whole numbers cut a batch, so divide by //" if ends else None


def _environ(rank: int, local: int, ranks: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(local), "WORLD_SIZE": str(ranks)}


def _average(fn: Callable, counts: list[int]) -> str | None:
    generator = torch.Generator().manual_seed(sum(counts))
    rows = torch.randn(sum(counts), 3, generator=generator, dtype=torch.float64)
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)

    def gradient(part: Tensor) -> Tensor:
        return torch.autograd.grad(torch.nn.functional.softplus(part @ weight).mean(), weight)[0]

    parts, want = [gradient(part) for part in rows.split(counts)], gradient(rows)
    scaled = [len(part) * grad for part, grad in zip(rows.split(counts), parts)]
    suspects = {
        "that is the plain average: a part of one row weighs as much as a part of five": sum(parts) / len(parts),
        "that is the sum over the ranks: divide": sum(parts),
        "the gradients are weighed by their rows, but not divided by all rows": sum(scaled),
        "the gradients are weighed by their rows and divided by the ranks: take all rows": sum(scaled) / len(parts),
        "only the first rank counts": parts[0],
    }
    return compare(fn([part.clone() for part in parts], list(counts)), want, suspects if len(counts) > 1 else {})


def _gather(fn: Callable, batch: int, dim: int, ranks: int) -> str | None:
    block = 4 * batch // ranks * dim
    want = 4 * (ranks - 1) * block  # two sides and a gradient of each
    suspects = {
        "that is in numbers: one takes 4 bytes in fp32": want / 4,
        "only one side is there: OpenCLIP gathers images and texts": want / 2,
        "a rank does not send itself its own block: W - 1 blocks of W": 4 * ranks * block,
        "that is the ring of this library: it sends one side, twice, and one gradient": 3 * (ranks - 1) * block,
        "that is what all ranks send together: count one": want * ranks,
    }
    return compare(fn(batch, dim, ranks), want, suspects if ranks > 1 else {})


def _gigabytes(fn: Callable, batch: int, dim: int, gpus: int) -> str | None:
    matrix, side = 4 * batch * batch / gpus, 4 * batch * dim
    want = 4 * matrix + 2 * side + 2 * side / gpus
    suspects = {
        "that is in bytes: divide by GB": want * GB,
        "that is with GB of 10^9 bytes: divide by GB, 1,000 MiB": want * GB / 1e9,
        "one matrix is there: the dense loss peaks at four": matrix + 2 * side + 2 * side / gpus,
        "the matrices have b rows: a rank has b / W": 4 * matrix * gpus + 2 * side + 2 * side / gpus,
        "the gathered features are missing: two sides of b rows": 4 * matrix + 2 * side / gpus,
        "the scaled own features are missing: two sides of b / W rows": 4 * matrix + 2 * side,
        "a number takes 4 bytes in fp32": want / 4,
    }
    told = {hint: size / GB for hint, size in suspects.items()}
    return compare(fn(batch, dim, gpus), want / GB, told if gpus > 1 else {})


def _seconds(fn: Callable, work: float, transfer: float, ranks: int) -> str | None:
    want = (ranks - 1) * max(work, transfer) + work
    suspects = {
        "work and transfer are added: they run at the same time": ranks * work + (ranks - 1) * transfer,
        "one transfer too many: nothing travels behind the last block": ranks * max(work, transfer),
        "the work on the last block is missing": (ranks - 1) * max(work, transfer),
        "the totals are compared: each step waits for its own transfer": max(ranks * work, (ranks - 1) * transfer),
    }
    return compare(fn(work, transfer, ranks), want, suspects if ranks > 1 and work < transfer else {})
