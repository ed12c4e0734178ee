"""What step k depends on besides weights and optimizer: the rows it takes, its random draws and its learning rate.

    rows             k-th slice of a permutation of the epoch, drawn from (seed, epoch); rank p of n takes its p-th part
    random draws     seeded by (seed, k, p), so that ranks draw different masks and rank 0 those of one process
    learning rate    lr min(1, (k + 1) / warmup) (1 + cos(pi k / steps)) / 2

Nothing is remembered from one step to the next, which is why a run that was killed can go on to the same bits.

Taught in notebooks/07_train_with_giant_batches.ipynb, proven in tests/test_training_curves_agree.py,
tests/test_resume_is_bit_equal.py and tests/test_training_on_many_ranks_equals_one.py.
"""

import math

import torch
from torch import Tensor


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    return peak * min(1.0, (step + 1) / max(1, warmup)) * (1 + math.cos(math.pi * step / steps)) / 2


def batch_indices(step: int, rows: int, batch_size: int, seed: int) -> Tensor:
    """Row numbers `(batch_size,)` of batch number `step`: each epoch a new permutation, its ragged end left out."""
    epoch, number = divmod(step, rows // batch_size)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(_mix(seed, epoch)))
    return order[number * batch_size : (number + 1) * batch_size]


def part_of(indices: Tensor, rank: int, ranks: int) -> Tensor:
    """The part of a batch that `rank` takes: consecutive rows, as even as possible, the longer parts first."""
    return indices.tensor_split(ranks)[rank]


def seed_of_draws(seed: int, step: int, rank: int) -> int:
    """Where the random draws of a step begin on a rank; those of rank 0 are those of one process."""
    return _mix(_mix(rank, seed), step)


def _mix(seed: int, number: int) -> int:
    return seed * 1_000_003 + number
