"""Checks of lesson 00, see the memory wall: bytes of the dense loss, and the batch that fits.

Solutions: `minilib.teaching.memory.dense_matrix_bytes` and `largest_dense_batch`.
"""

import math
from collections.abc import Callable

from minilib.teaching import memory
from minilib.teaching.checks.contract import compare, run


def check_predict_dense_bytes(learner: Callable[[int], int]) -> None:
    """Exercise: `predict_dense_bytes(batch)`, the bytes of four fp32 matrices of `batch` by `batch`."""

    def by_hand(fn):
        """For 10 pairs"""
        return compare("For 10 pairs", fn(10), 1600, _byte_suspects(10))

    def at_scale(fn):
        """For 65,536 pairs"""
        return compare("For 65,536 pairs", fn(65536), memory.dense_matrix_bytes(65536), _byte_suspects(65536))

    run(learner, [by_hand, at_scale], "twice the batch, four times the bytes: 65,536 pairs already ask for 69 GB.")


def _byte_suspects(b: int) -> dict[str, float]:
    return {
        "that is a quarter: count four matrices, and four bytes for each fp32 number": 4 * b * b,
        "that is a sixteenth: you counted the numbers of one matrix": b * b,
        "that grows with the batch, not with its square: every image meets every text": 16 * b,
        "that is half: an fp32 number takes four bytes, not two": 8 * b * b,
    }


def check_largest_batch(learner: Callable[[int], int]) -> None:
    """Exercise: `largest_batch(memory_bytes)`, the largest whole batch whose four matrices fit."""

    def by_hand(fn):
        """With 1,600 bytes"""
        return compare("With 1,600 bytes", fn(1600), 10, _batch_suspects(1600))

    def one_byte_short(fn):
        """With 1,599 bytes"""
        rounded = {"ten pairs need 1,600 bytes: round down, or the last pair does not fit": 10}
        return compare(
            "With 1,599 bytes", fn(1599), 9, rounded | {"return a whole number of pairs": math.sqrt(1599 / 16)}
        )

    def this_machine(fn):
        """With 16 GB"""
        want = memory.largest_dense_batch(16 * 10**9)
        return compare("With 16 GB", fn(16 * 10**9), want, _batch_suspects(16 * 10**9))

    insight = "memory grows with the square of the batch, so the batch grows only with the root of the memory."
    run(learner, [by_hand, one_byte_short, this_machine], insight)


def _batch_suspects(n: int) -> dict[str, float]:
    return {
        "you divided but took no square root: a matrix has b times b numbers": n // 16,
        "twice the right batch: count four matrices, and four bytes for each fp32 number": math.isqrt(n // 4),
        "four times the right batch: you took the root of the bytes, not of the numbers in one matrix": math.isqrt(n),
    }
