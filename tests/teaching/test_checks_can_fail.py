"""Every exercise check says all three of its lines: not attempted, not yet with its own hint, passed.

A check that cannot fail teaches nothing. So each one meets an untouched stub, the library's own solution and the
mistakes that learners typically make; every mistake must get a hint of its own, recognised here by a few of its words.
"""

import math
import re
from pathlib import Path

import pytest
import torch

from minilib import clip_loss, lse
from minilib.evals.retrieval import recall_at_k
from minilib.teaching import checks, memory
from minilib.teaching.checks.contract import close, verdict

INF = math.inf


def dense(img, txt, scale):
    return clip_loss(img, txt, scale, backend="dense")


def naive(img, txt, scale):
    exps = torch.exp(scale * img @ txt.T)
    return (exps.sum(1).log() / 2 + exps.sum(0).log() / 2 - exps.diagonal().log()).mean()


def one_way(img, txt, scale):
    logits = scale * img @ txt.T
    return (torch.logsumexp(logits, 1) - logits.diagonal()).mean()


def recall(similarities):
    # <sim_i, e_j> = sim_ij: the rows of the matrix against the rows of the identity
    return recall_at_k(similarities, torch.eye(len(similarities)), ks=(1,))["image_to_text"][1]


def accumulated(img, txt, scale, parts):
    return torch.stack([dense(i, t, scale) for i, t in zip(img.chunk(parts), txt.chunk(parts), strict=True)]).mean()


def merge_without_rescaling(a, b):
    return torch.maximum(a[0], b[0]), a[1] + b[1]


def merge_by_the_first(a, b):
    m = torch.maximum(a[0], b[0])
    return m, (a[1] + b[1] * torch.exp(b[0] - a[0])) * torch.exp(a[0] - m)


def merge_with_nan(a, b):
    m = torch.maximum(a[0], b[0])
    return m, a[1] * torch.exp(a[0] - m) + b[1] * torch.exp(b[0] - m)


def update_without_rescaling(pair, block):
    m = torch.maximum(pair[0], block.amax(1))
    return m, pair[1] + torch.exp(block - m[:, None]).sum(1)


def update_that_forgets(pair, block):
    m = torch.maximum(pair[0], block.amax(1))
    return m, torch.exp(block - m[:, None]).sum(1)


def update_from_zero(pair, block):
    start = torch.where(torch.isinf(pair[0]), 0.0, pair[0])
    return lse.update((start, torch.where(torch.isinf(pair[0]), 1.0, pair[1])), block)


def tiled_row_lse(img, txt, scale, tile):
    pair = lse.empty((len(img),), dtype=img.dtype)
    for block in txt.split(tile):
        for start in range(0, len(img), tile):
            rows = slice(start, start + tile)
            pair.m[rows], pair.s[rows] = lse.update((pair.m[rows], pair.s[rows]), scale * img[rows] @ block.T)
    return lse.value(pair)


def without_the_last_tile(img, txt, scale, tile):
    return tiled_row_lse(img, txt[: len(txt) // tile * tile or len(txt)], scale, tile)


def plain_row_sums(img, txt, scale, tile):
    return torch.cat([sum(torch.exp(scale * i @ t.T).sum(1) for t in txt.split(tile)) for i in img.split(tile)]).log()


def tiled(img, txt, scale, tile):
    return clip_loss(img, txt, scale, backend="tiled", tile_size=tile)


def tile_gradient(exps, row_sums, col_sums, pairs, batch):
    return (exps / row_sums[:, None] + exps / col_sums - 2 * pairs) / (2 * batch)


def gradients(loss_fn):
    def fn(img, txt, scale, tile):
        leaves = [side.clone().requires_grad_() for side in (img, txt)]
        return torch.autograd.grad(loss_fn(*leaves, scale, tile), leaves)

    return fn


def row_sums(img, txt, tile):
    return sum(torch.exp(img @ texts.T).sum(1) for texts in txt.split(tile))


def logit_gradient(logits):
    return ((logits.softmax(0) + logits.softmax(1)) / 2 - torch.eye(len(logits))) / len(logits)


def most_alive(events):
    alive = most = 0
    for what, _ in events:
        alive += 1 if what == "make" else -1
        most = max(most, alive)
    return most


def attend(logits, values, size, rescale=True):
    m, total, weighted = torch.tensor(-INF).double(), 0.0, torch.zeros(values.shape[1]).double()
    for x, v in zip(logits.split(size), values.split(size), strict=True):
        new = torch.maximum(m, x.max())
        factor = torch.exp(m - new)
        total = total * factor + torch.exp(x - new).sum()
        weighted = weighted * (factor if rescale else 1) + torch.exp(x - new) @ v
        m = new
    return weighted / total


SOLUTIONS = {
    "predict_dense_bytes": memory.dense_matrix_bytes,
    "largest_batch": memory.largest_dense_batch,
    "row_sums": row_sums,
    "logit_gradient": logit_gradient,
    "matrices_in": lambda size, batch: size / (4 * batch * batch),
    "most_alive": most_alive,
    "attend": attend,
    "info_nce": dense,
    "log_b_bound": math.log,
    "recall_at_1": recall,
    "saved_floats": memory.saved_numbers,
    "accumulated_loss": accumulated,
    "stable_lse": lambda x: lse.value(lse.of_block(x)),
    "merge": lse.merge,
    "update": lse.update,
    "tiled_row_lse": tiled_row_lse,
    "tiled_forward": tiled,
    "tile_gradient": tile_gradient,
    "tiled_backward": gradients(tiled),
}

MISTAKES = [
    ("predict_dense_bytes", lambda b: 4 * b * b, "a quarter"),
    ("predict_dense_bytes", lambda b: 16 * b, "not with its square"),
    ("predict_dense_bytes", lambda b: 8 * b * b, "not two"),
    ("largest_batch", lambda n: n // 16, "no square root"),
    ("largest_batch", lambda n: math.isqrt(n // 4), "twice the right batch"),
    ("largest_batch", lambda n: round(math.sqrt(n / 16)), "one pair too many"),
    ("largest_batch", lambda n: math.sqrt(n / 16), "whole number"),
    ("row_sums", lambda i, t, n: torch.exp(i @ t.T).sum(1), "the whole matrix"),
    ("row_sums", lambda i, t, n: sum((i @ x.T).sum(1) for x in t.split(n)), "exponential is missing"),
    ("row_sums", lambda i, t, n: row_sums(i, t[: len(t) // n * n], n), "last tile is missing"),
    ("row_sums", lambda i, t, n: row_sums(t, i, n), "over the images"),
    ("row_sums", lambda i, t, n: torch.exp(i @ t.split(n)[-1].T).sum(1), "only the last tile"),
    ("logit_gradient", lambda x: -logit_gradient(x), "the sign is turned"),
    ("logit_gradient", lambda x: logit_gradient(x) * len(x), "mean over the b pairs"),
    ("logit_gradient", lambda x: (x.softmax(1) - torch.eye(len(x))) / len(x), "only the rows"),
    ("logit_gradient", lambda x: (x.softmax(1) + x.softmax(0)) / 2 / len(x), "true pairs are missing"),
    ("matrices_in", lambda size, b: size / b**2, "four bytes"),
    ("matrices_in", lambda size, b: size / (4 * b), "b times b"),
    ("matrices_in", lambda size, b: size // (4 * b * b), "rounded down"),
    ("most_alive", lambda events: sum(what == "make" for what, _ in events), "ever made"),
    ("most_alive", lambda events: 0, "left at the end"),
    ("most_alive", len, "number of events"),
    ("attend", lambda x, v, n: torch.softmax(x, 0) @ v, "one block of 10"),
    ("attend", lambda x, v, n: attend(x, v, n, rescale=False), "keep their old scale"),
    ("attend", lambda x, v, n: (x.exp() / x.exp().sum()) @ v, "not finite"),
    ("attend", lambda x, v, n: v.mean(0), "plain mean"),
    ("info_nce", naive, "overflows"),
    ("info_nce", one_way, "image-to-text"),
    ("info_nce", lambda i, t, s: 2 * dense(i, t, s), "twice the loss"),
    ("info_nce", lambda i, t, s: dense(i, t, 1 / s), "divides"),
    ("info_nce", lambda i, t, s: dense(i, t, s).detach(), "no gradient"),
    ("log_b_bound", math.log2, "bits"),
    ("log_b_bound", lambda b: -math.log(b), "sign"),
    ("log_b_bound", lambda b: 1 / b, "probability"),
    ("recall_at_1", lambda x: (x.argmax(0) == torch.arange(len(x))).float().mean(), "along the row"),
    ("recall_at_1", lambda x: (x.argmax(1) == torch.arange(len(x))).sum(), "count"),
    ("recall_at_1", lambda x: (x.diagonal() >= x.amax(1)).float().mean(), "a tie is no success"),
    ("saved_floats", lambda b, d: 2 * b * b, "scaled features are missing"),
    ("saved_floats", lambda b, d: b * b + b * d, "one matrix is missing"),
    ("saved_floats", lambda b, d: 4 * b * b + b * d, "the peak"),
    ("accumulated_loss", lambda i, t, s, parts: dense(i, t, s), "whole batch"),
    ("accumulated_loss", lambda i, t, s, parts: parts * accumulated(i, t, s, parts), "added"),
    ("accumulated_loss", lambda i, t, s, parts: accumulated(i, t, s, parts) / parts, "divided twice"),
    ("stable_lse", lambda x: torch.exp(x).sum(1).log(), "subtract the row's maximum"),
    ("stable_lse", lambda x: torch.exp(x - x.amax(1, keepdim=True)).sum(1).log(), "never added back"),
    ("stable_lse", lambda x: torch.exp(x - x.max()).sum(1).log() + x.max(), "of each row"),
    ("stable_lse", lambda x: torch.exp(x - x.amax(1, keepdim=True)).sum(1).log() + x.amax(1), "NaN"),
    ("merge", merge_without_rescaling, "rescale each"),
    ("merge", lambda a, b: (a[0] + b[0], a[1] + b[1]), "maxima are added"),
    ("merge", merge_by_the_first, "larger maximum"),
    ("merge", merge_with_nan, "NaN"),
    ("update", update_without_rescaling, "keeps its old scale"),
    ("update", update_that_forgets, "lost"),
    ("update", update_from_zero, "phantom"),
    ("tiled_row_lse", without_the_last_tile, "last tile is missing"),
    ("tiled_row_lse", plain_row_sums, "not finite"),
    ("tiled_row_lse", lambda i, t, s, tile: torch.logsumexp(s * i @ t.T, 1), "one tile at a time"),
    ("tiled_row_lse", lambda i, t, s, tile: torch.logsumexp(s * i @ t.T, 0), "down the columns"),
    ("tiled_forward", lambda i, t, s, tile: accumulated(i, t, s, -(-len(i) // tile)), "small batches"),
    ("tiled_forward", lambda i, t, s, tile: dense(i, t, s) * len(i) / tile, "divided by the tile size"),
    ("tiled_forward", lambda i, t, s, tile: one_way(i, t, s), "only the rows"),
    ("tiled_forward", lambda i, t, s, tile: dense(i, t, s), "one tile at a time"),
    ("tile_gradient", lambda e, r, c, p, b: (e / r[:, None] + e / c) / (2 * b), "true pairs are missing"),
    ("tile_gradient", lambda e, r, c, p, b: tile_gradient(e, r, c, p, len(e)), "averaged over the tile"),
    ("tile_gradient", lambda e, r, c, p, b: (e / r[:, None] - p) / (2 * b), "only the rows"),
    ("tile_gradient", lambda e, r, c, p, b: (e / r + e / c - 2 * p) / (2 * b), "raised RuntimeError"),
    ("tiled_backward", lambda i, t, s, n: tuple(g / s for g in gradients(tiled)(i, t, s, n)), "scale is missing"),
    ("tiled_backward", lambda i, t, s, n: tuple(g * len(i) / n for g in gradients(tiled)(i, t, s, n)), "over the tile"),
    ("tiled_backward", gradients(lambda i, t, s, n: dense(i, t, s)), "one tile at a time"),
    ("tiled_backward", lambda i, t, s, n: gradients(tiled)(i, t, s, n)[0], "tuple of 2"),
]


def line_of(capsys, name, learner):
    getattr(checks, f"check_{name}")(learner)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1, printed
    return printed.strip()


def untouched(*args):
    """What every stub of a notebook looks like."""
    raise NotImplementedError


def in_own_file(check):
    """Whether a check is proven in `test_lesson_NN_checks_can_fail.py` of its own lesson, or with its lab."""
    if lab := re.search(r"\.lab_(\d\d)$", check.__module__):
        return any(f'"labs/{lab[1]}_' in path.read_text() for path in Path(__file__).parents[1].glob("test_labs_*.py"))
    lesson = check.__module__.rpartition(".lesson")[2]
    return (Path(__file__).parent / f"test_lesson_{lesson}_checks_can_fail.py").exists()


def test_every_check_has_a_solution_and_at_least_two_mistakes_here():
    names = {name.removeprefix("check_") for name in checks.__all__ if not in_own_file(getattr(checks, name))}
    assert names == set(SOLUTIONS)
    assert all(sum(name == mistaken for mistaken, _, _ in MISTAKES) >= 2 for name in names)


@pytest.mark.parametrize("name", SOLUTIONS)
def test_an_untouched_stub_is_not_attempted_yet(capsys, name):
    assert line_of(capsys, name, untouched).startswith("Not attempted yet: ")


@pytest.mark.parametrize("name", SOLUTIONS)
def test_the_library_passes_its_own_exercise(capsys, name):
    assert line_of(capsys, name, SOLUTIONS[name]).startswith("Passed: ")


@pytest.mark.parametrize(("name", "learner", "words"), MISTAKES, ids=[f"{n}: {w}" for n, _, w in MISTAKES])
def test_a_typical_mistake_gets_a_hint_of_its_own(capsys, name, learner, words):
    line = line_of(capsys, name, learner)
    assert line.startswith("Not yet: "), line
    assert words in line, line


def test_the_hints_of_one_exercise_differ(capsys):
    for name in SOLUTIONS:
        lines = [line_of(capsys, name, learner) for mistaken, learner, _ in MISTAKES if mistaken == name]
        assert len(set(lines)) == len(lines), lines


@pytest.mark.parametrize("name", SOLUTIONS)
def test_whatever_the_function_returns_or_raises_the_check_prints_one_line(capsys, name):
    def broken(*args):
        raise ZeroDivisionError("division by zero")

    for learner in (broken, lambda *args: None, lambda *args: "text", lambda *args: torch.zeros(2, 3, 4)):
        assert line_of(capsys, name, learner).startswith("Not yet: ")


@pytest.mark.parametrize("name", SOLUTIONS)
def test_a_line_is_the_same_every_time(capsys, name):
    mistakes = [learner for mistaken, learner, _ in MISTAKES if mistaken == name]
    for learner in (SOLUTIONS[name], *mistakes):
        assert line_of(capsys, name, learner) == line_of(capsys, name, learner)
        assert not re.search(r"0x[0-9a-f]{6,}|/\w+/\w+", line_of(capsys, name, learner))  # no addresses, no paths


def test_strict_checks_raise_what_they_would_print(monkeypatch, capsys):
    monkeypatch.setenv("MINILIB_STRICT_CHECKS", "1")
    with pytest.raises(AssertionError, match="Not attempted yet"):
        checks.check_merge(untouched)
    with pytest.raises(AssertionError, match=r"Not yet: .*rescale each"):
        checks.check_merge(merge_without_rescaling)
    checks.check_merge(lse.merge)
    assert capsys.readouterr().out.startswith("Passed: ")


def test_only_the_first_case_can_call_an_exercise_not_attempted():
    def fails_later(number):
        if number == 2:
            raise NotImplementedError("no such case")

    cases = {"for one": lambda fn: fn(1), "for two": lambda fn: fn(2)}
    hint = "for two, the function raised NotImplementedError: no such case."
    assert verdict(fails_later, cases, "seen") == f"Not yet: {hint}"


def test_closeness_compares_numbers_tensors_tuples_and_infinities():
    assert close(1.0, torch.tensor(1.0 + 1e-12))
    assert close((torch.tensor([-INF, 1.0]), 2), (torch.tensor([-INF, 1.0]), 2.0))
    assert not close(float("nan"), 1.0)
    assert not close(torch.zeros(2), torch.zeros(3))
    assert not close(1.0 + 1e-7, 1.0)
