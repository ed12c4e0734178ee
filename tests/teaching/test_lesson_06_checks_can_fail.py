"""Lesson 06: every check says all three of its lines, the library passes, and each typical mistake has its own hint.

And its optional cell, the one with real processes, finds what local ranks find, or gives up in one sentence.

Where the library has the function, it is the solution: the owner of a step, the row sums of a local ring's own
loop, the bytes of `bytes_sent`. A mistake is the same small function with one slip in it.
"""

import time

import pytest
import torch
from support.lesson_exercises import ExercisesCanFail, line_of

from minilib import lse
from minilib.distributed.ring_comm import Comm, LocalRing
from minilib.kernels import contrastive_tiled
from minilib.losses.contrastive_ring import Local, clip_share, ring_clip_loss
from minilib.losses.feature_grads import row_dots
from minilib.teaching import real_ranks
from minilib.teaching.repro import random_features
from minilib.teaching.ring_bytes import bytes_sent


def holds(rank, step, ranks):
    return Comm(rank, ranks, None).owner(step)


def library_rows(images, texts, scale):
    shared = {"scale": images[0].new_tensor(scale), "bias": None, "local": Local("tiled", contrastive_tiled, None, {})}

    def rows_of(comm, img, txt):
        return clip_share(comm, img, txt, (True, True, True), **shared)[2][2]

    return LocalRing(len(images)).run(rows_of, images, texts)


def rows(images, texts, scale, start=0, stop=0, masked=lambda owner, p: owner == p, way=-1, fold=lse.update):
    """The sweep of every rank over steps `start` to `ranks + stop`; the defaults are right."""
    answers = []
    for p, img in enumerate(images):
        state = lse.empty((len(img),), dtype=img.dtype)
        for step in range(start, len(texts) + stop):
            owner = (p + way * step) % len(texts)
            logits = scale * img @ texts[owner].T  # (m, rows of owner)
            state = fold(state, logits.fill_diagonal_(-torch.inf) if masked(owner, p) else logits)
        answers.append(lse.value(state))
    return answers


def plain_sums(state, logits):
    return torch.zeros_like(state[0]), state[1] + torch.exp(logits).sum(1)


def columns(images, texts, scale):
    return rows(texts, images, scale)


def library_bytes(batch, dim, ranks):
    sent = bytes_sent([batch // ranks] * ranks, 0, dim, 4)
    return sent.get("texts", 0) + sent.get("gradients", 0)


def share(rows, cols, positive, ranks, batch):
    return ((rows + cols) / 2 - positive).sum() * ranks / batch


def part(rank, images, grads, scale):
    return row_dots(images[rank], grads[rank]).sum() / scale


SOLUTIONS = {
    "holds": holds,
    "ring_row_lse": library_rows,
    "bytes_per_rank": library_bytes,
    "rank_share": share,
    "scale_part": part,
}

MISTAKES = [
    ("holds", lambda r, s, n: (r + s) % n, "the other way"),
    ("holds", lambda r, s, n: (r - s - 1) % n, "one step ahead"),
    ("holds", lambda r, s, n: (r - s + 1) % n, "one step behind"),
    ("holds", lambda r, s, n: r - s, "below 0"),
    ("holds", lambda r, s, n: (s - r) % n, "exchanged"),
    ("holds", lambda r, s, n: r, "nothing moves"),
    ("ring_row_lse", lambda i, t, s: rows(i, t, s, masked=lambda owner, p: False), "own text is among"),
    ("ring_row_lse", lambda i, t, s: rows(i, t, s, masked=lambda owner, p: True), "left out of every block"),
    ("ring_row_lse", lambda i, t, s: rows(i, t, s, stop=1), "counted twice"),
    ("ring_row_lse", lambda i, t, s: rows(i, t, s, start=1), "never counted"),
    ("ring_row_lse", lambda i, t, s: rows(i, t, s, stop=-1), "last block is missing"),
    ("ring_row_lse", lambda i, t, s: rows(i, t, s, stop=1 - len(t)), "only the own block"),
    ("ring_row_lse", lambda i, t, s: rows(i, t, s, fold=plain_sums), "not finite"),
    ("ring_row_lse", columns, "down the columns"),
    ("ring_row_lse", lambda i, t, s: torch.cat(rows(i, t, s)), "one tensor per rank"),
    ("bytes_per_rank", lambda b, d, n: 3 * 4 * b * d, "one ring step too many: the last step"),
    ("bytes_per_rank", lambda b, d, n: 4 * b * d * (2 * (n - 1) / n + 1), "the gradient makes one ring step too many"),
    ("bytes_per_rank", lambda b, d, n: 8 * b * d * (2 * (n - 1) / n + 1), "both directions"),
    ("bytes_per_rank", lambda b, d, n: 4 * b * d * (n - 1) / n, "only the forward pass"),
    ("bytes_per_rank", lambda b, d, n: 8 * b * d * (n - 1) / n, "in the backward pass too"),
    ("bytes_per_rank", lambda b, d, n: library_bytes(b, d, n) / 4, "4 bytes"),
    ("bytes_per_rank", lambda b, d, n: library_bytes(b, d, n) * n, "count one"),
    ("rank_share", lambda r, c, p, n, b: share(r, c, p, 1, len(r)), "mean over the own rows"),
    ("rank_share", lambda r, c, p, n, b: share(r, c, p, 1, b), "W is missing"),
    ("rank_share", lambda r, c, p, n, b: share(r, c, p, n, 1), "not divided by the batch"),
    ("rank_share", lambda r, c, p, n, b: share(r, c, p, 1, 1), "neither divided"),
    ("rank_share", lambda r, c, p, n, b: share(r, r, p, n, b), "only the rows"),
    ("rank_share", lambda r, c, p, n, b: (r + c - p).sum() * n / b, "rows and columns are added"),
    ("rank_share", lambda r, c, p, n, b: share(r, c, 0, n, b), "not subtracted"),
    ("scale_part", lambda r, i, g, s: sum(part(k, i, g, s) for k in range(len(i))), "W times too large"),
    ("scale_part", lambda r, i, g, s: part(r, i, g, 1), "logarithm"),
    ("scale_part", lambda r, i, g, s: part(r, i, g, s) / len(i), "will do that"),
    ("scale_part", lambda r, i, g, s: part(r, i, g, s) / len(i[r]), "averaged over the own rows"),
]


class TestExercises(ExercisesCanFail):
    """The tests of every lesson, for this one."""

    notebook = "06_pass_tiles_around_a_ring.ipynb"
    solutions = SOLUTIONS
    mistakes = MISTAKES
    names = {"lse": lse}  # noqa: RUF012


def test_the_sweep_that_the_mistakes_are_made_from_is_right(capsys):
    assert line_of(capsys, "ring_row_lse", rows).startswith("Passed: ")


@pytest.mark.slow
def test_real_processes_find_what_local_ranks_find():
    counts, sides = [3, 5, 2], random_features(10, 4, dtype=torch.float64)
    shards, ring = [side.requires_grad_().split(counts) for side in sides], LocalRing(3)
    shares = ring_clip_loss(ring, *shards, 14.3)
    grads = [grad.split(counts) for grad in torch.autograd.grad(shares.sum(), sides)]
    for rank, found in enumerate(real_ranks.run(*shards, 14.3)):
        assert abs(found.share - shares[rank]) < 1e-12
        for got, want in zip((found.img_grad, found.txt_grad), grads):
            assert torch.allclose(got, want[rank], rtol=0, atol=1e-12)
        assert found.sent == ring.trace.sent(rank)


def test_processes_that_take_too_long_are_given_up_in_one_sentence():
    started = time.monotonic()
    with pytest.raises(RuntimeError, match=r"rank 0 brought nothing within 0.1 s: read on with the local ranks\."):
        real_ranks.run(*(side.split(2) for side in random_features(4, 3)), 14.3, patience=0.1)
    assert time.monotonic() - started < 20


def test_a_system_without_processes_is_told_in_one_sentence(monkeypatch):
    def refuse(self):
        raise OSError("no more processes")

    monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", refuse)
    with pytest.raises(RuntimeError, match=r"processes cannot start here \(no more processes\)"):
        real_ranks.run(*(side.split(2) for side in random_features(4, 3)), 14.3)
