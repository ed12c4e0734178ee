"""Checks of lesson 07, train with giant batches: bytes of a step, the gradient cache, repeated captions, learning rate.

Solution of the second: `minilib.trainers.grad_cache.cached_backward([encoder], inputs.split(micro), loss_fn)`.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilib import clip_loss
from minilib.teaching.checks.contract import compare, run
from minilib.teaching.repro import random_features


class RecordingEncoder(nn.Module):
    """A linear map with one random factor per call, like dropout, that writes down what it was asked to do."""

    def __init__(self, noisy: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.weight = nn.Parameter(torch.randn(6, 4, generator=generator, dtype=torch.float64))
        self.noisy, self.calls = noisy, []

    def forward(self, x: Tensor) -> Tensor:
        factor = 1.0 + torch.rand(()).item() if self.noisy else 1.0
        self.calls.append((len(x), torch.is_grad_enabled(), factor))
        return factor * x @ self.weight  # (k, 4)


def check_step_bytes(learner: Callable[[int, int, float, int], float]) -> None:
    """Exercise: `step_bytes(batch, micro, per_pair, dim)`: activations of a micro-batch and features of the batch."""
    cases = {
        "for 32,768 pairs in pieces of 2,048": lambda fn: _step_bytes(fn, 32_768, 2_048, 10_000, 64),
        "for 512 pairs at once": lambda fn: _step_bytes(fn, 512, 512, 40_000, 16),
        "for 4,096 pairs one by one": lambda fn: _step_bytes(fn, 4_096, 1, 2_500, 128),
    }
    run(learner, cases, "the encoders pay for a micro-batch; of the whole batch only the features stay")


def check_gradient_cache_grads(learner: Callable) -> None:
    """Exercise: `gradient_cache_grads(encoder, inputs, loss_fn, micro)`: fill `.grad` of the encoder's parameters.

    `inputs (b, n)` go through `encoder` in micro-batches of `micro` rows; `loss_fn` takes the features of all b rows.
    The gradient must be that of the whole batch.
    """
    cases = {
        "for 8 rows in micro-batches of 4": lambda fn: _cache_gradient(fn, 8, 4),
        "for 10 rows in micro-batches of 4": lambda fn: _cache_gradient(fn, 10, 4),
        "for 8 rows in micro-batches of 2": _small_graphs,
        "for an encoder with dropout": _same_noise,
    }
    run(learner, cases, "the loss sees the whole batch, the encoder a micro-batch at a time: the gradient is exact")


def check_repeat_share(learner: Callable[[Sequence[str]], float]) -> None:
    """Exercise: `repeat_share(captions)`: the share of captions that stand in the list at least twice."""
    cases = {
        "for a, b, a, c, a, d, e": lambda fn: _repeats(fn, list("abacade")),
        "for two captions twice and one alone": lambda fn: _repeats(fn, list("xyzyx")),
        "for captions that are all different": lambda fn: _repeats(fn, list("abcd")),
    }
    run(learner, cases, "every copy is a false negative for every other, and a larger batch holds more of them")


def check_lr_for_batch(learner: Callable[[float, int, int], float]) -> None:
    """Exercise: `lr_for_batch(base_lr, base_batch, batch)`, by the square-root rule for Adam-like optimisers."""
    cases = {
        "from 256 to 4,096 pairs": lambda fn: _rate(fn, 4096),
        "from 256 to 64 pairs": lambda fn: _rate(fn, 64),
        "from 256 to 512 pairs": lambda fn: _rate(fn, 512),
    }
    run(learner, cases, "b pairs average the noise down by the root of b, and the step may grow by as much")


def _step_bytes(fn: Callable, batch: int, micro: int, per_pair: float, dim: int) -> str | None:
    features = 2 * 4 * batch * dim
    suspects = {
        "the activations of the whole batch are counted: the encoders see one piece at a time": per_pair * batch
        + features,
        "the features of one piece are counted: those of the whole batch stay for the loss": per_pair * micro
        + 2 * 4 * micro * dim,
        "the features of one side are missing: images and texts have their own": per_pair * micro + features / 2,
        "numbers are counted: a number in fp32 takes 4 bytes": per_pair * micro + features / 4,
        "the features are missing: they stay for the loss": per_pair * micro,
        "the activations are missing": features,
    }
    want = per_pair * micro + features
    return compare(fn(batch, micro, per_pair, dim), want, {hint: s for hint, s in suspects.items() if s != want})


def _repeats(fn: Callable, captions: list[str]) -> str | None:
    counts, total = Counter(captions), len(captions)
    again = sum(count for count in counts.values() if count > 1)
    kinds = sum(count > 1 for count in counts.values())
    pairs = sum(count * (count - 1) for count in counts.values()) / (total * (total - 1))
    suspects = {
        "the first copy is left out: it has a false negative as well": (total - len(counts)) / total,
        "captions are counted once each: count every copy": kinds / len(counts),
        "the repeated kinds are divided by all captions: count every copy": kinds / total,
        "that is a count: divide by the number of captions": again,
        "that is the share that occurs once: its complement is meant": 1 - again / total,
        "that is the share of pairs of places that agree: count captions": pairs,
    }
    want = again / total
    return compare(fn(list(captions)), want, {hint: s for hint, s in suspects.items() if s != want})


def _rate(fn: Callable, batch: int) -> str | None:
    ratio = batch / 256
    suspects = {
        "that is the linear rule, made for plain SGD: for Adam take the root": 1e-3 * ratio,
        "the rate moves the wrong way: a larger batch allows a larger step": 1e-3 / math.sqrt(ratio),
        "the rate has not changed": 1e-3,
    }
    return compare(fn(1e-3, 256, batch), 1e-3 * math.sqrt(ratio), suspects)


def _small_graphs(fn: Callable) -> str | None:
    encoder, inputs, loss_fn = _problem(8)
    fn(encoder, inputs, loss_fn, 2)
    graphs = [rows for rows, graph, _ in encoder.calls if graph]
    if max(graphs) > 2:
        return f"the encoder held a graph of {max(graphs)} rows: its memory would grow with the batch"
    if sum(graphs) > 8:
        return f"the encoder built graphs for {sum(graphs)} rows in all: make the first pass under torch.no_grad()"
    return None


def _same_noise(fn: Callable) -> str | None:
    encoder, inputs, loss_fn = _problem(8, noisy=True)
    fn(encoder, inputs, loss_fn, 2)
    first, second = ([factor for _, graph, factor in encoder.calls if graph is kept] for kept in (False, True))
    if sorted(first) == sorted(second):
        return None
    return "the second pass drew other masks: save the random state before each micro-batch and restore it"


def _problem(rows: int, noisy: bool = False) -> tuple[RecordingEncoder, Tensor, Callable[[Tensor], Tensor]]:
    inputs, _ = random_features(rows, 6, seed=1, dtype=torch.float64)
    txt, _ = random_features(rows, 4, seed=2, dtype=torch.float64)

    def loss_fn(features: Tensor) -> Tensor:
        return clip_loss(F.normalize(features, dim=-1), txt[: len(features)], 10.0, backend="dense")

    return RecordingEncoder(noisy), inputs, loss_fn


def _cache_gradient(fn: Callable, rows: int, micro: int) -> str | None:
    encoder, inputs, loss_fn = _problem(rows)
    want = torch.autograd.grad(loss_fn(encoder(inputs)), encoder.weight)[0]
    fn(encoder, inputs, loss_fn, micro)
    if encoder.weight.grad is None:
        return "the encoder's weight has no gradient: call backward through the features in the second pass"
    return compare(encoder.weight.grad, want, _cache_suspects(rows, micro, want))


def _cache_suspects(rows: int, micro: int, whole: Tensor) -> dict[str, Tensor]:
    encoder, inputs, loss_fn = _problem(rows)
    pieces = inputs.split(micro)
    losses = torch.stack([loss_fn(encoder(piece)) for piece in pieces])
    (apart,) = torch.autograd.grad(losses.sum(), encoder.weight)
    features = [encoder(piece) for piece in pieces]
    gradients = torch.autograd.grad(loss_fn(torch.cat(features)), features, retain_graph=True)
    (last,) = torch.autograd.grad(features[-1], encoder.weight, gradients[-1])
    return {
        "that is gradient accumulation: the loss must see the features of all micro-batches at once": apart,
        "that is averaged gradient accumulation: the loss must see all features at once": apart / len(pieces),
        "only the last micro-batch counts: add up the gradients of all of them": last,
        "it is divided by the number of micro-batches: the parts of a sum are not averaged": whole / len(pieces),
    }
