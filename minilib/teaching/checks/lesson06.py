"""Checks of lesson 06, pass the tiles around a ring: the schedule, the travelling blocks, the bytes, and the shares.

Solutions: `Comm.owner` in `minilib.distributed.ring_comm`, `bytes_sent` in `minilib.teaching.ring_bytes`, and the loop
and the share of `minilib.losses.contrastive_ring`. The judge of sums and shares is the dense matrix in fp64.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from minilib import clip_loss
from minilib.teaching.checks.contract import MISSING, compare, not_finite, run
from minilib.teaching.repro import random_features

SCALE = 10.0


def check_holds(learner: Callable[[int, int, int], int]) -> None:
    """Exercise: `holds(rank, step, ranks)`, the rank whose texts are with `rank` at `step`."""
    cases = {
        "for 4 ranks and steps 0 to 3": lambda fn: _schedule(fn, 4, 4),
        "for 5 ranks, up to a whole round": lambda fn: _schedule(fn, 5, 6),
        "for one rank": lambda fn: _schedule(fn, 1, 2),
    }
    run(learner, cases, "what comes from the previous rank was one step before with the rank below")


def check_ring_row_lse(learner: Callable[[Sequence[Tensor], Sequence[Tensor], float], Sequence[Tensor]]) -> None:
    """Exercise: `ring_row_lse(image_shards, text_shards, scale)`, one `(m,)` per rank, without the own texts."""
    cases = {
        "for 4 ranks of 3 pairs": lambda fn: _rows(fn, [3, 3, 3, 3]),
        "for shards of 4, 2 and 5 pairs": lambda fn: _rows(fn, [4, 2, 5]),
        "for one rank": lambda fn: _rows(fn, [5]),
        "for logits up to 1,000 in fp32": _large_logits,
    }
    run(learner, cases, "the rows stay where they are, and the running state meets every block once")


def check_bytes_per_rank(learner: Callable[[int, int, int], float]) -> None:
    """Exercise: `bytes_per_rank(batch, dim, ranks)`, forward and backward, fp32, shards of one size."""
    cases = {
        "for 256 pairs of width 512 on 4 ranks": lambda fn: _bytes(fn, 256, 512, 4),
        "for 4,096 pairs of width 64 on 8 ranks": lambda fn: _bytes(fn, 4096, 64, 8),
        "for one rank": lambda fn: _bytes(fn, 256, 512, 1),
    }
    run(learner, cases, "three journeys of W - 1 ring steps, and the number of bytes hardly grows with the ranks")


def check_rank_share(learner: Callable[[Tensor, Tensor, Tensor, int, int], Tensor]) -> None:
    """Exercise: `rank_share(rows, cols, positive, ranks, batch)` of one rank's own pairs, each `(m,)`."""
    cases = {
        "for 2 of 6 pairs, one of 3 ranks": lambda fn: _share(fn, [2, 2, 2]),
        "for 7 of 10 pairs, one of 3 ranks": lambda fn: _share(fn, [7, 1, 2]),
        "for one rank": lambda fn: _share(fn, [5]),
        "for the average over ranks of 7, 1 and 2 pairs": _average,
    }
    run(learner, cases, "the factor W / b makes the average over ranks exact, whatever the size of the shards")


def check_scale_part(learner: Callable[[int, Sequence[Tensor], Sequence[Tensor], float], Tensor]) -> None:
    """Exercise: `scale_part(rank, images, image_grads, scale)`, the part of dL/dscale that a rank returns."""
    cases = {
        "for rank 1 of 3": lambda fn: _part(fn, 1, [2, 4, 3]),
        "for rank 0 of 4": lambda fn: _part(fn, 0, [3, 3, 3, 3]),
        "for one rank": lambda fn: _part(fn, 0, [5]),
    }
    run(learner, cases, "own rows only: the average over ranks adds the parts and divides once")


def _schedule(fn: Callable, ranks: int, steps: int) -> str | None:
    rank, step = torch.arange(ranks)[:, None], torch.arange(steps)
    suspects = {
        "the blocks go the other way: what arrives comes from the previous rank": (rank + step) % ranks,
        "it is one step ahead: at step 0 every rank holds its own texts": (rank - step - 1) % ranks,
        "it is one step behind: at step 0 every rank holds its own texts": (rank - step + 1) % ranks,
        "a number falls below 0: count modulo the number of ranks": (rank - step).expand(ranks, steps),
        "rank and step are exchanged": (step - rank) % ranks,
        "nothing moves: at every step each rank holds its own texts": rank.expand(ranks, steps),
    }
    got = [[fn(r, s, ranks) for s in range(steps)] for r in range(ranks)]
    if any(entry is None for row in got for entry in row):
        return MISSING
    got = torch.stack([torch.stack([torch.as_tensor(entry) for entry in row]) for row in got])
    return compare(got, (rank - step) % ranks, suspects)


def _rows(fn: Callable, counts: list[int]) -> str | None:
    img, txt = random_features(sum(counts), 6, seed=len(counts), dtype=torch.float64)
    logits, every = SCALE * img @ txt.T, torch.ones(len(img), len(img), dtype=torch.float64)  # (b, b)
    own = torch.block_diag(*(torch.ones(m, m, dtype=torch.float64) for m in counts))
    want, last, diagonals = every - torch.eye(len(img)), every.clone(), every.clone()
    for p, i in enumerate(_slices(counts)):
        last[i, _slices(counts)[(p + 1) % len(counts)]] = 0
        for j in _slices(counts):
            diagonals[i, j].fill_diagonal_(0)

    def lse(times):  # each logit counted so many times
        return tuple((times * logits.exp()).sum(1).log().split(counts))

    suspects = {
        "the own text is among the terms: set the diagonal of the own block to -inf": lse(every),
        "a diagonal is left out of every block: the true pairs are in the own block alone": lse(diagonals),
        "the own block is counted twice: it is here at step 0 and does not come again": lse(want + own * want),
        "the own block is never counted: at step 0 the own texts are here": lse(every - own),
        "the last block is missing: a round has as many steps as ranks": lse(want * last),
        "only the own block is there: let the texts travel": lse(own * want),
        "you summed down the columns: reduce along the row": tuple((want * logits.exp()).sum(0).log().split(counts)),
    }
    return compare(_shards(fn(img.split(counts), txt.split(counts), SCALE)), lse(want), suspects)


def _large_logits(fn: Callable) -> str | None:
    img, _ = random_features(6, 16)
    got = _shards(fn(img.split(2), img.split(2), 1000.0))
    logits = (1000.0 * img @ img.T).double().fill_diagonal_(-torch.inf)
    overflow = "an entry is not finite: fold the blocks with lse.update, which subtracts a maximum"
    return not_finite(got, overflow) or compare(got, tuple(torch.logsumexp(logits, 1).split(2)), tol=1e-5)


def _bytes(fn: Callable, batch: int, dim: int, ranks: int) -> str | None:
    block = 4 * batch // ranks * dim  # bytes of one block of texts
    hops = ranks - 1
    suspects = {
        "that is in numbers: one takes 4 bytes in fp32": 3 * hops * block / 4,
        "a journey has one ring step too many: the last step sends nothing on": 3 * ranks * block,
        "the gradient makes one ring step too many: that of the own block stays at home": (2 * hops + ranks) * block,
        "both sides travel there: one sweep of the texts serves both directions": 2 * (2 * hops + ranks) * block,
        "only the forward pass is there: texts travel again backward, with their gradients": hops * block,
        "the texts travel in the backward pass too: each tile is computed again": 2 * hops * block,
        "that is what all ranks send together: count one": 3 * hops * block * ranks,
    }
    return compare(fn(batch, dim, ranks), 3 * hops * block, suspects if ranks > 1 else {})


def _pieces(counts: list[int]) -> tuple[list[tuple[Tensor, Tensor, Tensor]], Tensor]:
    """Log-sum-exps of rows and columns and the positives of every rank, and the loss of all pairs."""
    img, txt = random_features(sum(counts), 6, seed=sum(counts), dtype=torch.float64)
    logits = SCALE * img @ txt.T  # (b, b)
    sides = torch.logsumexp(logits, 1), torch.logsumexp(logits, 0), logits.diagonal()
    return list(zip(*(side.split(counts) for side in sides))), clip_loss(img, txt, SCALE, backend="dense")


def _share(fn: Callable, counts: list[int]) -> str | None:
    pieces, _ = _pieces(counts)
    ranks, batch, (rows, cols, positive) = len(counts), sum(counts), pieces[0]
    total = ((rows + cols) / 2 - positive).sum()
    suspects = {
        "that is the mean over the own rows: a small shard would weigh as much as a large one": total / len(rows),
        "W is missing: an average over W ranks divides by W once more": total / batch,
        "the sum is not divided by the batch": total * ranks,
        "the sum over the own rows is neither divided by the batch nor multiplied by the ranks": total,
        "only the rows are there: the loss has a half of the columns": (rows - positive).sum() * ranks / batch,
        "rows and columns are added: take the mean of both": (rows + cols - positive).sum() * ranks / batch,
        "the positives are not subtracted": (rows + cols).sum() / 2 * ranks / batch,
    }
    return compare(fn(rows, cols, positive, ranks, batch), total * ranks / batch, suspects)


def _average(fn: Callable) -> str | None:
    pieces, want = _pieces([7, 1, 2])
    return compare(torch.stack([torch.as_tensor(fn(*piece, 3, 10)) for piece in pieces]).mean(), want)


def _part(fn: Callable, rank: int, counts: list[int]) -> str | None:
    sides = [side.requires_grad_() for side in random_features(sum(counts), 6, seed=9, dtype=torch.float64)]
    (grad,) = torch.autograd.grad(len(counts) * clip_loss(*sides, SCALE, backend="dense"), sides[:1])
    images, grads = (side.detach().split(counts) for side in (sides[0], grad))
    parts = torch.stack([(i * g).sum() for i, g in zip(images, grads)]) / SCALE
    suspects = {
        "that is the sum over all ranks: averaged afterwards, it is W times too large": parts.sum(),
        "that is the gradient of the logarithm of the scale: divide by the scale": parts[rank] * SCALE,
        "it is divided by the number of ranks: the average over ranks will do that": parts[rank] / len(counts),
        "it is averaged over the own rows: add them": parts[rank] / counts[rank],
    }
    return compare(fn(rank, images, grads, SCALE), parts[rank], suspects if len(counts) > 1 else {})


def _slices(counts: list[int]) -> list[slice]:
    ends = torch.tensor([0, *counts]).cumsum(0).tolist()
    return [slice(start, stop) for start, stop in pairwise(ends)]


def _shards(got: Sequence[Tensor]) -> tuple[Tensor, ...]:
    if not isinstance(got, tuple | list):
        raise TypeError(f"a list with one tensor per rank was expected, not {type(got).__name__}")
    return tuple(got)
