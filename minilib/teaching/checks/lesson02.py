"""Checks of lesson 02, measure where the memory goes: matrices, what is alive, what accumulation cannot do.

Solutions: `minilib.teaching.memory.saved_numbers`; `minilib.clip_loss` of each part, averaged.
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
    cases = {
        "for 4 pairs of width 3": lambda fn: _saved(fn, 4, 3),
        "for 1,000 pairs of width 64": lambda fn: _saved(fn, 1000, 64),
    }
    run(learner, cases, "what waits grows with b squared; the features, b times d, soon do not matter")


def check_accumulated_loss(learner: Callable[[Tensor, Tensor, float, int], Tensor]) -> None:
    """Exercise: `accumulated_loss(img, txt, scale, parts)`, the loss that gradient accumulation minimises.

    Cut the batch `(b, d)` into `parts` equal parts and average the losses of the parts; returns a scalar.
    """
    cases = {
        "for 12 pairs in 4 parts": lambda fn: _accumulated(fn, 12, 4),
        "for 6 pairs in one part, which is the whole batch": lambda fn: _accumulated(fn, 6, 1),
        "for 6 parts of one pair, where nobody has a negative and the loss is 0": lambda fn: _accumulated(fn, 6, 6),
    }
    run(learner, cases, "n parts compare one n-th of all pairs, so accumulation is not a larger batch for this loss")


def check_matrices_in(learner: Callable[[int, int], float]) -> None:
    """Exercise: `matrices_in(size, batch)`, how many fp32 matrices of `batch` by `batch` are `size` bytes."""
    cases = {
        "for 144 bytes and 3 pairs": lambda fn: _matrices(fn, 144, 3),
        "for 66.11 GB and 65,536 pairs": lambda fn: _matrices(fn, 66_110_000_000, 65536),
        "for 50 bytes and 5 pairs": lambda fn: _matrices(fn, 50, 5),
    }
    run(learner, cases, "divide a measured number by one matrix, and you see how many were alive")


def check_most_alive(learner: Callable[[list], int]) -> None:
    """Exercise: `most_alive(events)`, the largest number of matrices that are alive at the same time."""
    forward = [("make", "logits"), ("make", "rows"), ("make", "cols"), ("free", "logits")]
    backward = [("make", "d cols"), ("make", "d logits"), ("free", "cols"), ("free", "d cols")]
    cases = {
        "for one matrix that is made and freed": lambda fn: _alive(fn, [("make", "a"), ("free", "a")]),
        "for the forward pass": lambda fn: _alive(fn, forward),
        "for the forward pass and one direction back": lambda fn: _alive(fn, forward + backward),
        "for a step that is run twice": lambda fn: _alive(
            fn, 2 * [("make", "a"), ("make", "b"), ("free", "a"), ("free", "b")]
        ),
        "for no events": lambda fn: _alive(fn, []),
    }
    run(learner, cases, "the peak is a moment: what matters is what lives together, not what is made in all")


def _matrices(fn: Callable, size: int, b: int) -> str | None:
    suspects = {
        "an fp32 number takes four bytes": size / b**2,
        "a matrix has b times b numbers": size / (4 * b),
        "turned round: divide the size by one matrix": 4 * b * b / size,
        "that is rounded down: a fraction says that something is left over": size // (4 * b * b),
        "you divided by four matrices: the task asks how many there are": size / (16 * b * b),
    }
    return compare(fn(size, b), size / (4 * b * b), suspects)


def _alive(fn: Callable, events: list[tuple[str, str]]) -> str | None:
    made = [1 if what == "make" else -1 for what, _ in events]
    running = [sum(made[: k + 1]) for k in range(len(made))]
    suspects = {
        "that is what is left at the end: keep the largest count on the way": running[-1] if running else -1,
        "that counts all that were ever made: a matrix that is freed no longer counts": made.count(1),
        "that counts different names: look how many are alive at one moment": len({name for _, name in events}),
        "that is the number of events": len(events),
    }
    return compare(fn(list(events)), max(running, default=0), suspects)


def _saved(fn: Callable, b: int, d: int) -> str | None:
    suspects = {
        "one matrix is missing: each direction keeps its own log-probabilities": b * b + b * d,
        "the scaled features are missing: a product keeps what it multiplied": 2 * b * b,
        "that is the peak: two of the four matrices are only made during the backward pass": 4 * b * b + b * d,
        "that is in bytes: the task asks for numbers": 4 * (2 * b * b + b * d),
        "only the images are scaled: the texts are inputs that you hold anyway": 2 * b * b + 2 * b * d,
    }
    return compare(fn(b, d), memory.saved_numbers(b, d), suspects)


def _accumulated(fn: Callable, b: int, parts: int) -> str | None:
    img, txt = random_features(b, 5, dtype=torch.float64)
    pieces = zip(img.chunk(parts), txt.chunk(parts), strict=True)
    losses = torch.stack([clip_loss(i, t, 10.0, backend="dense") for i, t in pieces])
    whole = clip_loss(img, txt, 10.0, backend="dense")
    suspects = {
        "that is the loss of the whole batch: a part sees only its own pairs as negatives": whole,
        "the losses of the parts are added, not averaged": losses.sum(),
        "that is the loss of the last part alone": losses[-1],
        "that is divided twice: each part's loss is already a mean over its pairs": losses.mean() / parts,
    }
    return compare(fn(img, txt, 10.0, parts) + 1.0, losses.mean() + 1.0, {k: v + 1.0 for k, v in suspects.items()})
