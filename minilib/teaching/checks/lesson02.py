"""Checks of lesson 02, measure where the memory goes: what autograd keeps, and what accumulation cannot do.

Solutions: `minilib.teaching.memory.saved_numbers`; `minilib.clip_loss` on each part, averaged.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minilib import clip_loss
from minilib.teaching import memory
from minilib.teaching.checks.contract import compare, run
from minilib.teaching.repro import random_features


def check_saved_floats(learner: Callable[[int, int], int]) -> None:
    """Exercise: `saved_floats(batch, dim)`, the numbers that wait for the backward pass of the dense loss.

    Two matrices of log-probabilities, one per direction, and the scaled image features; the inputs do not count.
    """

    def numbers(fn, b, d):
        return compare(f"For {b} pairs of width {d}", fn(b, d), memory.saved_numbers(b, d), {
            "one matrix is missing: each direction keeps its own log-probabilities": b * b + b * d,
            "the scaled features are missing: the product keeps what it multiplied": 2 * b * b,
            "that is the peak: two of the four matrices are only made during the backward pass": 4 * b * b + b * d,
            "that is in bytes: the task asks for numbers": 4 * (2 * b * b + b * d),
            "the texts are not scaled, they are inputs that you hold anyway": 2 * b * b + 2 * b * d,
        })  # fmt: skip

    def small(fn):
        """For 4 pairs of width 3"""
        return numbers(fn, 4, 3)

    def wide(fn):
        """For 1,000 pairs of width 64"""
        return numbers(fn, 1000, 64)

    run(learner, [small, wide], "what waits grows with b squared; the features, b times d, soon do not matter.")


def check_accumulated_loss(learner: Callable[[Tensor, Tensor, float, int], Tensor]) -> None:
    """Exercise: `accumulated_loss(img, txt, scale, parts)`, the loss that gradient accumulation minimises.

    Cut the batch `(b, d)` into `parts` equal parts and average the losses of the parts; returns a scalar.
    """

    def four_parts(fn):
        """For 12 pairs in 4 parts"""
        img, txt = random_features(12, 5, dtype=torch.float64)
        losses = _losses(img, txt, 4)
        return compare("For 12 pairs in 4 parts", fn(img, txt, 10.0, 4), losses.mean(), {
            "that is the loss of the whole batch: a part sees only its own pairs as negatives": _losses(img, txt, 1)[0],
            "the losses of the parts are added, not averaged": losses.sum(),
            "that is the loss of the last part alone": losses[-1],
            "that is four times too small: each part's loss is already a mean over its pairs": losses.mean() / 4,
        })  # fmt: skip

    def one_part(fn):
        """For one part"""
        img, txt = random_features(6, 5, dtype=torch.float64)
        return compare("For one part, which is the whole batch", fn(img, txt, 10.0, 1), _losses(img, txt, 1)[0])

    def single_pairs(fn):
        """For as many parts as pairs"""
        img, txt = random_features(6, 5, dtype=torch.float64)
        where = "For as many parts as pairs, where nobody has a negative and the loss is 0"
        return compare(where, fn(img, txt, 10.0, 6) + 1.0, 1.0)

    insight = "n parts compare one n-th of all pairs, so accumulation is not a larger batch for this loss."
    run(learner, [four_parts, one_part, single_pairs], insight)


def _losses(img: Tensor, txt: Tensor, parts: int) -> Tensor:
    pieces = zip(img.chunk(parts), txt.chunk(parts), strict=True)
    return torch.stack([clip_loss(i, t, 10.0, backend="dense") for i, t in pieces])
