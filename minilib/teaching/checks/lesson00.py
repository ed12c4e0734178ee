"""Checks of lesson 00, see the memory wall: bytes of the dense loss, and the batch that fits.

Solutions: `minilib.teaching.memory.dense_matrix_bytes` and `largest_dense_batch`.
"""

import math
from collections.abc import Callable

from minilib.teaching import memory
from minilib.teaching.checks.contract import compare, run


def check_predict_dense_bytes(learner: Callable[[int], int]) -> None:
    """Exercise: `predict_dense_bytes(batch)`, the bytes of four fp32 matrices of `batch` by `batch`."""
    cases = {
        "for 10 pairs": lambda fn: _dense_bytes(fn, 10),
        "for 65,536 pairs": lambda fn: _dense_bytes(fn, 65536),
    }
    run(learner, cases, "twice the batch, four times the bytes: 65,536 pairs already ask for 69 GB")


def check_largest_batch(learner: Callable[[int], int]) -> None:
    """Exercise: `largest_batch(memory_bytes)`, the largest whole batch whose four fp32 matrices fit."""
    cases = {
        "with 1,600 bytes": lambda fn: _largest_batch(fn, 1600),
        "with 1,599 bytes": lambda fn: _largest_batch(fn, 1599),
        "with 16 GB": lambda fn: _largest_batch(fn, 16 * 10**9),
    }
    run(learner, cases, "memory grows with the square of the batch, so the batch grows with the root of the memory")


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
