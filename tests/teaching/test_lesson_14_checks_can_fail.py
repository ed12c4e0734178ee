"""Lesson 14: every check says all three of its lines, the library passes, and each typical mistake has its own hint.

And a script started by torchrun prints what the lesson says that it prints, or fails in one sentence.
"""

import re

import nbformat
import pytest
import torch
from support.lesson_exercises import NOTEBOOKS, ExercisesCanFail

from minilib.teaching import launched
from minilib.teaching.cost_model import GB, loss_parts, overlapped, wire_parts
from minilib.trainers.contrastive import part_of

NOTEBOOK = "14_leave_one_machine.ipynb"


def in_library(environ, batch):
    rows = part_of(torch.arange(batch), int(environ["RANK"]), int(environ["WORLD_SIZE"]))
    return rows[0].item(), rows[-1].item() + 1


def part(environ, batch, name="RANK", shift=0):
    rank, ranks = int(environ[name]) + shift, int(environ["WORLD_SIZE"])
    return rank * batch // ranks, (rank + 1) * batch // ranks


def equal_parts(environ, batch):
    rank, rows = int(environ["RANK"]), batch // int(environ["WORLD_SIZE"])
    return rank * rows, (rank + 1) * rows


def last_takes_the_rest(environ, batch):
    rank, ranks = int(environ["RANK"]), int(environ["WORLD_SIZE"])
    return rank * (batch // ranks), batch if rank + 1 == ranks else (rank + 1) * (batch // ranks)


def divided(environ, batch):
    share = batch / int(environ["WORLD_SIZE"])
    return int(environ["RANK"]) * share, (int(environ["RANK"]) + 1) * share


def average(gradients, counts, over=sum, weigh=True):
    return sum(grad * (count if weigh else 1) for grad, count in zip(gradients, counts)) / over(counts)


def gathered(batch, dim, ranks):
    return sum(wire_parts("OpenCLIP", batch, dim, ranks).values())


def gigabytes(batch, dim, gpus, unit=GB, without=None, method="OpenCLIP", **changed):
    parts = loss_parts(method, batch, dim, gpus) | changed
    return sum(size for part, size in parts.items() if part != without) / unit


def one_matrix(batch, dim, gpus):
    return gigabytes(batch, dim, gpus, **{"four matrices": 4 * batch**2 / gpus})


def all_rows(batch, dim, gpus):
    return gigabytes(batch, dim, gpus, **{"four matrices": 16 * batch**2})


SOLUTIONS = {
    "own_part": in_library,
    "average_gradients": average,
    "gather_bytes": gathered,
    "loss_gigabytes": gigabytes,
    "ring_seconds": overlapped,
}

MISTAKES = [
    ("own_part", lambda e, b: part(e, b, "LOCAL_RANK"), "that is the part of LOCAL_RANK"),
    ("own_part", lambda e, b: part(e, b, shift=-1), "ranks count from 0"),
    ("own_part", lambda e, b: (part(e, b)[0], part(e, b)[1] - part(e, b)[0]), "how many rows there are"),
    ("own_part", lambda e, b: (part(e, b)[0], part(e, b)[1] - 1), "is the last row"),
    ("own_part", lambda e, b: (0, b), "takes all rows"),
    ("own_part", equal_parts, "rows belong to nobody"),
    ("own_part", last_takes_the_rest, "differ by one at most"),
    ("own_part", divided, "whole numbers cut a batch"),
    ("own_part", lambda e, b: (e["RANK"] * b // e["WORLD_SIZE"], b), "TypeError"),
    ("average_gradients", lambda g, c: average(g, c, over=len, weigh=False), "the plain average"),
    ("average_gradients", lambda g, c: average(g, c, over=lambda _: 1, weigh=False), "the sum over the ranks"),
    ("average_gradients", lambda g, c: average(g, c, over=lambda _: 1), "not divided by all rows"),
    ("average_gradients", lambda g, c: average(g, c, over=len), "divided by the ranks: take all rows"),
    ("average_gradients", lambda g, c: g[0], "only the first rank counts"),
    ("gather_bytes", lambda b, d, n: gathered(b, d, n) / 4, "that is in numbers"),
    ("gather_bytes", lambda b, d, n: gathered(b, d, n) / 2, "only one side is there"),
    ("gather_bytes", lambda b, d, n: 16 * b * d, "W - 1 blocks of W"),
    ("gather_bytes", lambda b, d, n: 12 * b * d * (n - 1) / n, "the ring of this library"),
    ("gather_bytes", lambda b, d, n: n * gathered(b, d, n), "count one"),
    ("loss_gigabytes", lambda b, d, n: gigabytes(b, d, n, unit=1), "that is in bytes"),
    ("loss_gigabytes", lambda b, d, n: gigabytes(b, d, n, unit=1e9), "GB of 10^9 bytes"),
    ("loss_gigabytes", one_matrix, "one matrix is there"),
    ("loss_gigabytes", all_rows, "the matrices have b rows"),
    ("loss_gigabytes", lambda b, d, n: gigabytes(b, d, n, without="gathered features"), "gathered features are"),
    ("loss_gigabytes", lambda b, d, n: gigabytes(b, d, n, without="scaled features"), "own features are missing"),
    ("loss_gigabytes", lambda b, d, n: gigabytes(b, d, n) / 4, "4 bytes in fp32"),
    ("ring_seconds", lambda w, t, n: n * w + (n - 1) * t, "they run at the same time"),
    ("ring_seconds", lambda w, t, n: n * max(w, t), "one transfer too many"),
    ("ring_seconds", lambda w, t, n: (n - 1) * max(w, t), "the last block is missing"),
    ("ring_seconds", lambda w, t, n: max(n * w, (n - 1) * t), "the totals are compared"),
]


class TestExercises(ExercisesCanFail):
    """The tests of every lesson, for this one."""

    notebook = NOTEBOOK
    solutions = SOLUTIONS
    mistakes = MISTAKES
    names = {"GB": GB}  # noqa: RUF012


def script(name):
    """The text that the lesson gives to torchrun under this name."""
    cells = nbformat.read(NOTEBOOKS / NOTEBOOK, as_version=4).cells
    scope = {}
    exec(next(cell.source for cell in cells if cell.source.startswith(f"{name} = ")), scope)
    return scope[name]


def numbers(line, what=r"share ([\d.]+), gradient ([\d.]+)"):
    return re.search(what, line).groups()


@pytest.mark.slow
def test_two_processes_of_the_lesson_find_the_loss_and_the_gradient_of_one(capsys):
    exec(script("SCRIPT"), {})
    loss, norm = numbers(capsys.readouterr().out)
    found = [numbers(line) for line in launched.torchrun(script("SCRIPT"), 2)]
    assert [gradient for _, gradient in found] == [norm, norm]
    assert sum(float(share) for share, _ in found) / 2 == pytest.approx(float(loss), abs=1e-4)


@pytest.mark.slow
def test_sharded_weights_of_the_lesson_have_half_the_numbers_and_the_whole_gradient(capsys):
    exec(script("SHARDED"), {})
    what = r"([\d,]+) numbers here, gradient ([\d.]+)"
    total, norm = numbers(capsys.readouterr().out, what)
    found = [numbers(line, what) for line in launched.torchrun(script("SHARDED"), 2)]
    assert {gradient for _, gradient in found} == {norm}
    assert sum(int(own.replace(",", "")) for own, _ in found) == int(total.replace(",", ""))


def test_a_script_that_fails_or_takes_too_long_is_told_in_one_sentence():
    with pytest.raises(RuntimeError, match=r"torchrun did not come to an end here \(TimeoutExpired\): read on\."):
        launched.torchrun("import time; time.sleep(60)", 1, patience=0.5)
