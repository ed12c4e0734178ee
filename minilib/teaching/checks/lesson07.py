"""Checks of lesson 07, train with giant batches: the embedding cache, and the learning rate for another batch size.

Solution of the first: `minilib.trainers.embedding_cache.cached_backward([encoder], inputs.split(micro), loss_fn)`.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilib import clip_loss
from minilib.teaching.checks.contract import compare, run
from minilib.teaching.repro import random_features


class DiaryEncoder(nn.Module):
    """A linear map with one random factor per call, like dropout, that writes down what it was asked to do."""

    def __init__(self, noisy: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.weight = nn.Parameter(torch.randn(6, 4, generator=generator, dtype=torch.float64))
        self.noisy, self.diary = noisy, []

    def forward(self, x: Tensor) -> Tensor:
        factor = 1.0 + torch.rand(()).item() if self.noisy else 1.0
        self.diary.append((len(x), torch.is_grad_enabled(), factor))
        return factor * x @ self.weight  # (k, 4)


def check_embedding_cache_grads(learner: Callable) -> None:
    """Exercise: `embedding_cache_grads(encoder, inputs, loss_fn, micro)`: fill `.grad` of the encoder's parameters.

    `inputs (b, n)` go through `encoder` in micro-batches of `micro` rows; `loss_fn` takes the features of all b rows.
    The gradient must be that of the whole batch.
    """

    def even(fn):
        """For 8 rows in micro-batches of 4"""
        return _cache_gradient(fn, 8, 4)

    def ragged(fn):
        """For 10 rows in micro-batches of 4"""
        return _cache_gradient(fn, 10, 4)

    def small_graphs(fn):
        """For 8 rows in micro-batches of 2"""
        encoder, inputs, loss_fn = _problem(8)
        fn(encoder, inputs, loss_fn, 2)
        largest = max(rows for rows, graph, _ in encoder.diary if graph)
        if largest > 2:
            return f"For 8 rows in micro-batches of 2, the encoder held a graph of {largest} rows: its memory grows with the batch."
        graphs = sum(rows for rows, graph, _ in encoder.diary if graph)
        if graphs > 8:
            return f"For 8 rows, the encoder built graphs for {graphs} rows: make the first pass under torch.no_grad()."
        return None

    def same_noise(fn):
        """For an encoder with dropout"""
        encoder, inputs, loss_fn = _problem(8, noisy=True)
        fn(encoder, inputs, loss_fn, 2)
        first, second = (sorted(f for _, graph, f in encoder.diary if graph is kept) for kept in (False, True))
        if first != second:
            return "For an encoder with dropout, the second pass drew other masks: save the random state before each micro-batch and restore it."
        return None

    insight = "the loss sees the whole batch, the encoder a micro-batch at a time, and the gradient is exact."
    run(learner, [even, ragged, small_graphs, same_noise], insight)


def check_lr_for_batch(learner: Callable[[float, int, int], float]) -> None:
    """Exercise: `lr_for_batch(base_lr, base_batch, batch)`, by the square-root rule for Adam-like optimisers."""

    def larger(fn):
        """From 256 to 4,096 pairs"""
        return compare("From 256 to 4,096 pairs at 1e-3", fn(1e-3, 256, 4096), 4e-3, {
            "that is the linear rule, made for plain SGD: Adam divides by the gradient's size, so take the root": 16e-3,
            "the rate falls: a larger batch has less noise and allows a larger step": 1e-3 / 4,
            "the rate has not changed": 1e-3,
        })  # fmt: skip

    def smaller(fn):
        """From 256 to 64 pairs"""
        return compare("From 256 to 64 pairs at 1e-3", fn(1e-3, 256, 64), 0.5e-3, {"the rate has not changed": 1e-3})

    def odd(fn):
        """From 256 to 512 pairs"""
        return compare("From 256 to 512 pairs at 1e-3", fn(1e-3, 256, 512), 1e-3 * math.sqrt(2))

    insight = "b pairs average the noise down by the square root of b, and the step may grow by as much."
    run(learner, [larger, smaller, odd], insight)


def _problem(rows: int, noisy: bool = False) -> tuple[DiaryEncoder, Tensor, Callable[[Tensor], Tensor]]:
    inputs, _ = random_features(rows, 6, seed=1, dtype=torch.float64)
    txt, _ = random_features(rows, 4, seed=2, dtype=torch.float64)

    def loss_fn(features: Tensor) -> Tensor:
        return clip_loss(F.normalize(features, dim=-1), txt[: len(features)], 10.0, backend="dense")

    return DiaryEncoder(noisy), inputs, loss_fn


def _cache_gradient(fn: Callable, rows: int, micro: int) -> str | None:
    encoder, inputs, loss_fn = _problem(rows)
    want = torch.autograd.grad(loss_fn(encoder(inputs)), encoder.weight)[0]
    fn(encoder, inputs, loss_fn, micro)
    where = f"For {rows} rows in micro-batches of {micro}"
    if encoder.weight.grad is None:
        return f"{where}, the encoder's weight has no gradient: call backward through the features in the second pass."
    return compare(where, encoder.weight.grad, want, _cache_suspects(rows, micro, want))


def _cache_suspects(rows: int, micro: int, whole: Tensor) -> dict[str, Tensor]:
    encoder, inputs, loss_fn = _problem(rows)
    pieces = inputs.split(micro)
    losses = torch.stack([loss_fn(encoder(piece)) for piece in pieces])
    (apart,) = torch.autograd.grad(losses.sum(), encoder.weight)
    features = [encoder(piece) for piece in pieces]
    gradients = torch.autograd.grad(loss_fn(torch.cat(features)), features, retain_graph=True)
    (last,) = torch.autograd.grad(features[-1], encoder.weight, gradients[-1])
    small = "that is gradient accumulation: the loss must see the features of all micro-batches at once"
    return {
        small: apart,
        f"{small} ": apart / len(pieces),
        "only the last micro-batch counts: add up the gradients of all of them": last,
        "it is divided by the number of micro-batches: the parts of a sum are not averaged": whole / len(pieces),
    }
