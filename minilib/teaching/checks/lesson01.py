"""Checks of lesson 01, build a contrastive loss: InfoNCE, its value for a model that knows nothing, recall.

Solutions: `minilib.clip_loss(..., backend="dense")`, `math.log`, `minilib.evals.retrieval.recall_at_k`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minilib import clip_loss
from minilib.teaching.checks.contract import as_tensor, compare, run
from minilib.teaching.repro import random_features


def check_info_nce(learner: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """Exercise: `info_nce(img, txt, scale)`, the symmetric loss of features `(b, d)`; returns a scalar."""

    def two_pairs_by_hand(fn):
        """For two orthogonal pairs at scale log 3"""
        # Each row and each column is (log 3, 0): the true pair has probability 3/4.
        eye = torch.eye(2, dtype=torch.float64)
        where = "For two orthogonal pairs at scale log 3, where each true pair has probability 3/4"
        return compare(
            where,
            fn(eye, eye, math.log(3)),
            math.log(4 / 3),
            {
                "the true pair is missing from the sum under the logarithm": -math.log(3),
                "the sum over the pairs is not divided by their number": 2 * math.log(4 / 3),
                "both directions are added, not averaged": 2 * math.log(4 / 3),
                "the scale divides the similarities and should multiply them": math.log(1 + math.exp(-1 / math.log(3))),
            },
        )

    def random_pairs(fn):
        """For 7 random pairs"""
        img, txt = random_features(7, 5, dtype=torch.float64)
        return compare(
            "For 7 random pairs at scale 10",
            fn(img, txt, 10.0),
            clip_loss(img, txt, 10.0, backend="dense"),
            _suspects(img, txt, 10.0),
        )

    def gradient(fn):
        """For the gradient of 7 random pairs"""
        img, txt = (side.requires_grad_() for side in random_features(7, 5, dtype=torch.float64))
        want = torch.autograd.grad(clip_loss(img, txt, 10.0, backend="dense"), (img, txt))
        return compare("For the gradient of 7 random pairs", torch.autograd.grad(fn(img, txt, 10.0), (img, txt)), want)

    def nasty(fn):
        """For aligned pairs at scale 100 in fp32"""
        img, _ = random_features(6, 16)
        where = "For aligned pairs at scale 100 in fp32"
        if not torch.isfinite(as_tensor(fn(img, img, 100.0))):
            return f"{where}, the loss is not finite: exp(100) overflows, so subtract each row's maximum first."
        return compare(
            where, fn(img, img, 100.0), clip_loss(img.double(), img.double(), 100.0, backend="dense"), tol=1e-3
        )

    insight = "the loss asks each image to name its text among b, and each text its image."
    run(learner, [two_pairs_by_hand, random_pairs, gradient, nasty], insight)


def _suspects(img: Tensor, txt: Tensor, scale: float) -> dict[str, Tensor]:
    logits = scale * img @ txt.T  # (b, b)
    rows, cols, pairs = torch.logsumexp(logits, 1), torch.logsumexp(logits, 0), logits.diagonal()
    return {
        "only the image-to-text direction is there: average it with the columns": (rows - pairs).mean(),
        "only the text-to-image direction is there: average it with the rows": (cols - pairs).mean(),
        "both directions are added, not averaged": (rows + cols - 2 * pairs).mean(),
        "the sum over the pairs is not divided by their number": ((rows + cols) / 2 - pairs).sum(),
        "the scale is missing": clip_loss(img, txt, 1.0, backend="dense"),
    }


def check_log_b_bound(learner: Callable[[int], float]) -> None:
    """Exercise: `log_b_bound(batch)`, the loss of a model that gives every pair the same similarity, in nats."""

    def pairs(fn, batch):
        return compare(f"For {batch:,} pairs", fn(batch), math.log(batch), {
            "that is in bits: the loss uses the natural logarithm": math.log2(batch),
            "that is the logarithm to base ten: the loss uses the natural one": math.log10(batch),
            "the sign is wrong: the loss is minus the logarithm of the probability 1 / b": -math.log(batch),
            "that is the probability of the true pair: the loss is minus its logarithm": 1 / batch,
        }, tol=1e-6)  # fmt: skip

    def few(fn):
        """For 8 pairs"""
        return pairs(fn, 8)

    def many(fn):
        """For 65,536 pairs"""
        return pairs(fn, 65536)

    def one(fn):
        """For one pair"""
        return compare("For one pair, where there is nothing to choose", fn(1), 0.0)

    run(learner, [few, many, one], "a loss is only large or small beside log b, the loss of a guess.")


def check_recall_at_1(learner: Callable[[Tensor], float]) -> None:
    """Exercise: `recall_at_1(similarities)`, the share of rows `(b, b)` whose largest entry is the true pair's."""

    def by_hand(fn):
        """For three images, two of them right"""
        similarities = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.7, 0.0], [0.95, 0.2, 0.99]])
        return compare("For three images, two of them right", fn(similarities), 2 / 3, {
            "every column is right here: rows are images, compare along the row": 1.0,
            "that is a count: divide it by the number of rows": 2.0,
        }, tol=1e-6)  # fmt: skip

    def random(fn):
        """For 50 random pairs"""
        img, txt = random_features(50, 8, seed=3)
        values = img @ txt.T
        want = (values.argmax(1) == torch.arange(50)).double().mean()
        columns = (values.argmax(0) == torch.arange(50)).double().mean()
        return compare(
            "For 50 random pairs", fn(values), want, {"compare along the row, not along the column": columns}, tol=1e-6
        )

    def collapsed(fn):
        """For a model that gives every pair the same similarity"""
        got = float(fn(torch.ones(10, 10)))
        if got <= 0.1 + 1e-6:
            return None
        return f"For a model that gives every pair the same similarity, recall is {got:.2f}: a tie is no success, chance is 1 / b."

    insight = "recall asks for the place of the true text only; the loss also asks by how much it leads."
    run(learner, [by_hand, random, collapsed], insight)
