"""Checks of lesson 01, build a contrastive loss: InfoNCE, its gradient, the loss of a guess, recall.

Solutions: `minilib.clip_loss(..., backend="dense")`, `math.log`, `minilib.evals.retrieval.recall_at_k`, autograd.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minilib import clip_loss
from minilib.teaching.checks.contract import as_tensor, compare, not_finite, run
from minilib.teaching.repro import random_features


def check_info_nce(learner: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """Exercise: `info_nce(img, txt, scale)`, the symmetric loss of features `(b, d)`; returns a scalar."""
    cases = {
        "for two orthogonal pairs at scale log 3, where each true pair has probability 3/4": _two_pairs,
        "for 7 random pairs at scale 10": _random_pairs,
        "for the gradient of 7 random pairs": _gradient,
        "for aligned pairs at scale 100 in fp32": _large_logits,
    }
    run(learner, cases, "the loss asks each image to name its text among b, and each text its image")


def check_log_b_bound(learner: Callable[[int], float]) -> None:
    """Exercise: `log_b_bound(batch)`, the loss of a model that gives every pair the same similarity, in nats."""
    cases = {
        "for 8 pairs": lambda fn: _log_b(fn, 8),
        "for 65,536 pairs": lambda fn: _log_b(fn, 65536),
        "for one pair, where there is nothing to choose": lambda fn: compare(fn(1), 0.0),
    }
    run(learner, cases, "compare a loss with log b, the loss of a guess, before you call it large or small")


def check_recall_at_1(learner: Callable[[Tensor], float]) -> None:
    """Exercise: `recall_at_1(similarities)`, the share of rows `(b, b)` whose largest entry is the true pair's."""
    cases = {
        "for three images of which two are right": _three_images,
        "for 50 random pairs": _fifty_pairs,
        "for a model that gives every pair the same similarity": _collapsed,
    }
    run(learner, cases, "recall asks for the place of the true text only; the loss also asks by how much it leads")


def check_logit_gradient(learner: Callable[[Tensor], Tensor]) -> None:
    """Exercise: `logit_gradient(logits)`, the gradient of the symmetric loss with respect to each logit, `(b, b)`."""
    by_hand = torch.tensor([[3.0, 1.0], [1.0, 1.0]], dtype=torch.float64).log()
    cases = {
        "for two pairs by hand": lambda fn: _pushes(fn, by_hand),
        "for 6 random pairs": lambda fn: _pushes(fn, 10 * torch.matmul(*_sides(6))),
        "for one pair, which has no negative": lambda fn: _pushes(fn, torch.full((1, 1), 3.0, dtype=torch.float64)),
        "for logits near 1,000 in fp32": lambda fn: not_finite(
            fn(1000 * torch.eye(4)), "it is not finite: use softmax"
        ),
    }
    run(learner, cases, "true pairs are pulled, strangers are pushed as hard as the model believes in them")


def _two_pairs(fn: Callable) -> str | None:
    eye = torch.eye(2, dtype=torch.float64)  # each row and each column of logits is (log 3, 0)
    suspects = {
        "the true pair is missing from the sum under the logarithm": -math.log(3),
        "that is twice the loss: average over the pairs and over both directions": 2 * math.log(4 / 3),
        "that is four times the loss: average over the pairs and over both directions": 4 * math.log(4 / 3),
        "the scale divides the similarities and should multiply them": math.log(1 + math.exp(-1 / math.log(3))),
    }
    scale = torch.tensor(math.log(3), dtype=torch.float64)
    return compare(fn(eye, eye, scale), math.log(4 / 3), suspects)


def _random_pairs(fn: Callable) -> str | None:
    img, txt = random_features(7, 5, dtype=torch.float64)
    logits = 10.0 * img @ txt.T  # (7, 7)
    rows, cols, pairs = torch.logsumexp(logits, 1), torch.logsumexp(logits, 0), logits.diagonal()
    suspects = {
        "only the image-to-text direction is there: average it with the columns": (rows - pairs).mean(),
        "only the text-to-image direction is there: average it with the rows": (cols - pairs).mean(),
        "both directions are added, not averaged": (rows + cols - 2 * pairs).mean(),
        "the sum over the pairs is not divided by their number": ((rows + cols) / 2 - pairs).sum(),
        "the scale is missing": clip_loss(img, txt, 1.0, backend="dense"),
    }
    return compare(fn(img, txt, 10.0), clip_loss(img, txt, 10.0, backend="dense"), suspects)


def _gradient(fn: Callable) -> str | None:
    img, txt = (side.requires_grad_() for side in random_features(7, 5, dtype=torch.float64))
    want = torch.autograd.grad(clip_loss(img, txt, 10.0, backend="dense"), (img, txt))
    loss = fn(img, txt, 10.0)
    if not getattr(loss, "requires_grad", False):
        return "the loss has no gradient: keep it a tensor, without detach, item or no_grad"
    return compare(torch.autograd.grad(loss, (img, txt)), want)


def _large_logits(fn: Callable) -> str | None:
    img, _ = random_features(6, 16)
    got = as_tensor(fn(img, img, 100.0))
    overflow = "the loss is not finite: exp(100) overflows, so subtract each row's maximum first"
    want = clip_loss(img.double(), img.double(), 100.0, backend="dense")
    return not_finite(got, overflow) or compare(got + 1.0, want + 1.0, tol=1e-4)


def _log_b(fn: Callable, b: int) -> str | None:
    suspects = {
        "that is in bits: the loss uses the natural logarithm": math.log2(b),
        "that is the logarithm to base ten: the loss uses the natural one": math.log10(b),
        "the sign is wrong: the loss is minus the logarithm of the probability 1 / b": -math.log(b),
        "that is the probability of the true pair: the loss is minus its logarithm": 1 / b,
    }
    return compare(fn(b), math.log(b), suspects, tol=1e-6)


def _three_images(fn: Callable) -> str | None:
    similarities = torch.tensor([[0.9, 0.1, 0.95], [0.8, 0.85, 0.0], [0.7, 0.2, 0.99]])
    suspects = {
        "every column is right here: rows are images, so compare along the row": 1.0,
        "that is a count: divide it by the number of rows": 2.0,
    }
    return compare(fn(similarities), 2 / 3, suspects, tol=1e-6)


def _fifty_pairs(fn: Callable) -> str | None:
    img, txt = random_features(50, 8, seed=3)
    values, true = img @ txt.T, torch.arange(50)  # (50, 50)
    suspects = {"compare along the row, not along the column": (values.argmax(0) == true).double().mean()}
    return compare(fn(values), (values.argmax(1) == true).double().mean(), suspects, tol=1e-6)


def _collapsed(fn: Callable) -> str | None:
    got = float(fn(torch.ones(10, 10)))
    return None if got <= 0.1 + 1e-6 else f"recall is {got:.2f}: a tie is no success, chance is 1 / b"


def _sides(b: int) -> tuple[Tensor, Tensor]:
    img, txt = random_features(b, 5, seed=b, dtype=torch.float64)
    return img, txt.T


def _pushes(fn: Callable, logits: Tensor) -> str | None:
    b, rows, cols = len(logits), logits.softmax(1), logits.softmax(0)
    eye = torch.eye(b, dtype=torch.float64)
    want = ((rows + cols) / 2 - eye) / b
    suspects = {
        "the true pairs are missing: subtract 1 on the diagonal": want + eye / b,
        "the sign is turned: the gradient is the probability minus the right answer": -want,
        "the mean over the b pairs is missing": want * b,
        "only the rows are there: average them with the softmax of the columns": (rows - eye) / b,
        "only the columns are there: average them with the softmax of the rows": (cols - eye) / b,
        "the two directions are added: take their mean, then subtract 1 once": (rows + cols - eye) / b,
    }
    return compare(fn(logits.clone()), want, suspects)
