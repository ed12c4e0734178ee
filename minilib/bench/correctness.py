"""Equality before speed: a method is timed only if its loss and gradients are those of the fp64 reference.

    error = max over the loss and each gradient g of   |g - g64| / |g64|

where
    g64   the same quantity from the dense loss in double precision, on the same numbers; |.| is the Euclidean norm

Four cases of a contrastive loss: scale 14.3 and 100, matching pairs correlated and not. The cosine is mild on purpose:
where a positive's probability nears 1, fp32 losses that subtract it from a matrix of logits lose digits in 1 - p (the
tiled one does not). Gradients of scale and bias are sums that may cancel to nearly nothing; features of half precision
leave an error in proportion to the terms, so there |g64| is at least |img| |dimg| / s.

Memory that nobody has written to holds NaN meanwhile (`poisoned`), so that a method cannot be right by what a former
call has left.
"""

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from minilib.bench.baselines import Inputs, backward, fresh, make_inputs
from minilib.bench.harness import Method, describe
from minilib.losses.contrastive import clip_loss, siglip_loss

CASES = {f"scale {s:g}{', correlated' * bool(c)}": (s, c) for s in (14.3, 100.0) for c in (0.0, 0.1)}


class Verdict(NamedTuple):
    """Errors of one method by case (`nan` where it could not be run) and whether all are within its tolerance."""

    method: str
    errors: dict[str, float]
    tolerance: float
    equal: bool
    complaint: str


def judge(
    method: Method, batch: int, dim: int, device: str = "cpu", seed: int = 0, cases: dict[str, tuple] = CASES
) -> Verdict:
    """Compare one contrastive method with fp64 on every case, at a batch small enough for a dense matrix."""
    errors, complaint = {}, ""
    for number, (case, (scale, correlation)) in enumerate(cases.items()):
        given = {"correlation": correlation, "dtype": method.dtype, "device": device, "seed": seed + number}
        inputs = make_inputs(batch, dim, scale, **given)
        try:
            with poisoned():
                errors[case] = _error(method, inputs)
        except Exception as error:  # whatever a method raises, it has not shown that it is right
            errors[case], complaint = math.nan, describe(error)
    equal = all(error <= method.tolerance for error in errors.values())  # NaN is within no tolerance
    return Verdict(method.name, errors, method.tolerance, equal, complaint)


@contextmanager
def poisoned() -> Iterator[None]:
    """Within this block memory that torch hands out uninitialised is filled with NaN."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings(action="ignore"):  # of operations whose order of sums may vary
        torch.use_deterministic_algorithms(True, warn_only=True)  # torch fills memory in this mode only
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def largest(mine: Iterable[Tensor], truth: Iterable[Tensor]) -> float:
    """The largest relative error over tensors, by norm."""
    return max(relative(value, true) for value, true in zip(mine, truth, strict=True))


def relative(value: Tensor | None, truth: Tensor, least: float = 0.0) -> float:
    """|value - truth| / |truth|, the divisor at least `least`; infinity for a value that is NaN or not there."""
    if value is None:
        return math.inf
    size = torch.linalg.vector_norm(truth).clamp_min(least)
    error = (torch.linalg.vector_norm(value.double() - truth) / size).item()
    return math.inf if math.isnan(error) else error  # max() overlooks NaN


def _error(method: Method, inputs: Inputs) -> float:
    truth, mine = Inputs(*(tensor.detach().double().requires_grad_() for tensor in inputs)), fresh(inputs)
    loss = siglip_loss(*truth, backend="dense") if method.loss == "siglip" else clip_loss(*truth[:3], backend="dense")
    errors = [relative(method.step(mine), backward(loss))]
    norms = [torch.linalg.vector_norm(tensor.detach()) for tensor in (truth.img, truth.img.grad)]
    natural = (norms[0] * norms[1] / truth.scale).item() if method.dtype.itemsize < 4 else 0.0
    for name, true, own in zip(Inputs._fields, truth, mine):
        if name not in method.missing and true.grad is not None:  # InfoNCE knows no bias
            errors.append(relative(own.grad, true.grad, 0.0 if true.ndim else natural))
    return max(errors)
