"""Checks of lesson 00, see the memory wall: bytes of the dense loss, the batch that fits, sums tile by tile.

Solutions: `minilib.teaching.memory.dense_matrix_bytes`, `largest_dense_batch`, and a loop over pieces of the texts.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minilib.teaching import memory
from minilib.teaching.checks.contract import LargestTensor, compare, run
from minilib.teaching.repro import random_features


def check_predict_dense_bytes(learner: Callable[[int], int]) -> None:
    """Exercise: `predict_dense_bytes(batch)`, the bytes of four fp32 matrices of `batch` by `batch`."""
    cases = {"for 10 pairs": lambda fn: _dense_bytes(fn, 10), "for 65,536 pairs": lambda fn: _dense_bytes(fn, 65536)}
    run(learner, cases, "twice the batch, four times the bytes: 65,536 pairs already ask for 69 GB")


def check_largest_batch(learner: Callable[[int], int]) -> None:
    """Exercise: `largest_batch(memory_bytes)`, the largest whole batch whose four fp32 matrices fit."""
    cases = {
        "with 1,600 bytes": lambda fn: _largest_batch(fn, 1600),
        "with 1,599 bytes": lambda fn: _largest_batch(fn, 1599),
        "with 16 GB": lambda fn: _largest_batch(fn, 16 * 10**9),
    }
    run(learner, cases, "memory grows with the square of the batch, so the batch grows with the root of the memory")


def check_row_sums(learner: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    """Exercise: `row_sums(img, txt, tile)`, for each image the sum of exp(<img, txt>) over all texts, `(b,)`."""
    cases = {
        "for 2 pairs by hand": lambda fn: _row_sums(fn, torch.eye(2, dtype=torch.float64), torch.eye(2).double(), 1),
        "for 6 pairs, two texts at a time": lambda fn: _row_sums(fn, *random_features(6, 4, dtype=torch.float64), 2),
        "for 7 pairs, three texts at a time": lambda fn: _row_sums(fn, *random_features(7, 4, dtype=torch.float64), 3),
        "for 40 pairs, five texts at a time": _holds_one_tile,
    }
    run(learner, cases, "a sum over a row needs one tile at a time, so the matrix never has to exist")


def _dense_bytes(fn: Callable, b: int) -> str | None:
    suspects = {
        "that is a quarter: count four matrices, and four bytes for each fp32 number": 4 * b * b,
        "that is a sixteenth: you counted the numbers of one matrix": b * b,
        "that grows with the batch, not with its square: every image meets every text": 16 * b,
        "that is half: an fp32 number takes four bytes, not two": 8 * b * b,
    }
    return compare(fn(b), memory.dense_matrix_bytes(b), suspects)


def _largest_batch(fn: Callable, n: int) -> str | None:
    suspects = {
        "one pair too many: round down, or the last pair does not fit": memory.largest_dense_batch(n) + 1,
        "return a whole number of pairs, rounded down": math.sqrt(n / 16),
        "you divided but took no square root: a matrix has b times b numbers": n // 16,
        "twice the right batch: count four matrices, and four bytes for each fp32 number": math.isqrt(n // 4),
        "four times the right batch: take the root of the numbers in one matrix, not of the bytes": math.isqrt(n),
    }
    return compare(fn(n), memory.largest_dense_batch(n), suspects)


def _row_sums(fn: Callable, img: Tensor, txt: Tensor, tile: int) -> str | None:
    exps = torch.exp(img @ txt.T)  # (b, b), the judge may hold it
    whole = exps[:, : len(txt) // tile * tile].sum(1)
    suspects = {
        "the exponential is missing: sum exp of each inner product": (img @ txt.T).sum(1),
        "that is the exponential of the sum: each entry has an exponential of its own": torch.exp((img @ txt.T).sum(1)),
        "only the last tile is left: add to the running sums": exps[:, (len(txt) - 1) // tile * tile :].sum(1),
        "the last tile is missing: it is smaller when the tile does not divide the batch": whole,
        "you summed over the images: a row is one image, and runs over the texts": exps.sum(0),
        "that is the mean: the task asks for the sum": exps.mean(1),
    }
    return compare(fn(img, txt, tile), exps.sum(1), suspects)


def _holds_one_tile(fn: Callable) -> str | None:
    img, txt = random_features(40, 4, dtype=torch.float64)
    with LargestTensor() as largest:
        fn(img, txt, 5)
    if largest.numel < 40 * 40:
        return _row_sums(fn, img, txt, 5)
    return f"a tensor of {largest.numel:,} numbers was made, which is the whole matrix: take five texts at a time"
