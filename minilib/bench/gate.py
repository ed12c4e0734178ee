"""Equality before speed: a method is timed only if its loss and gradients are those of the fp64 reference.

    error = max over the loss and each gradient g of   |g - g64| / |g64|

where
    g64   the same quantity from the dense loss in double precision, on the same numbers
    |.|   Euclidean norm; gradients are those of both features, of the scale and (SigLIP) of the bias

Four cases: scale 14.3 and 100, matching pairs correlated (cosine 0.1) and not. A method whose largest error exceeds its
tolerance is reported as wrong and never timed. The cosine is mild on purpose: where a positive's probability nears 1,
fp32 losses that subtract it from a matrix of logits lose digits in 1 - p (the tiled one does not), and here all should
agree.

The gradients of scale and bias are sums whose terms may cancel to nearly nothing. Features of half precision leave an
error in proportion to the terms, so there |g64| is at least the natural size of such a sum, |img| |dimg| / s for the
scale.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from minilib.bench.harness import first_line
from minilib.bench.methods import Inputs, Method, fresh, make_inputs
from minilib.losses.contrastive import clip_loss, siglip_loss

CASES = {
    "scale 14.3": (14.3, 0.0),
    "scale 14.3, correlated": (14.3, 0.1),
    "scale 100": (100.0, 0.0),
    "scale 100, correlated": (100.0, 0.1),
}


class Verdict(NamedTuple):
    """Errors of one method by case (`nan` where it could not be run) and whether all are within its tolerance."""

    method: str
    errors: dict[str, float]
    tolerance: float
    equal: bool
    complaint: str


def judge(method: Method, batch: int, dim: int, device: str = "cpu") -> Verdict:
    """Compare one method with the fp64 reference on every case, at a batch small enough for a dense matrix."""
    errors, complaint = {}, ""
    for case, (scale, correlation) in CASES.items():
        inputs = make_inputs(batch, dim, scale, correlation=correlation, dtype=method.dtype, device=device)
        try:
            errors[case] = max(_errors(method, inputs).values())
        except Exception as error:  # whatever a method raises, it has not shown that it is right
            errors[case], complaint = math.nan, f"{type(error).__name__}: {first_line(error)}"
    equal = all(error <= method.tolerance for error in errors.values())  # NaN is within no tolerance
    return Verdict(method.name, errors, method.tolerance, equal, complaint)


def _errors(method: Method, inputs: Inputs) -> dict[str, float]:
    truth, exact = Inputs(*(tensor.detach().double().requires_grad_() for tensor in inputs)), fresh(inputs)
    loss64 = _reference(method.loss, truth)
    errors = {"loss": _distance(method.step(exact), loss64)}
    natural = _natural_size(truth) if method.dtype.itemsize < 4 else 0.0
    for name in ("img", "txt", "scale", "bias"):
        if name in method.missing or getattr(truth, name).grad is None:  # InfoNCE knows no bias
            continue
        grad, grad64 = getattr(exact, name).grad, getattr(truth, name).grad
        size = natural if grad64.ndim == 0 else 0.0
        errors[name] = math.nan if grad is None else _distance(grad, grad64, size)
    return {name: math.inf if math.isnan(error) else error for name, error in errors.items()}  # max() overlooks NaN


def _reference(loss: str, x: Inputs) -> Tensor:
    if loss == "siglip":
        value = siglip_loss(x.img, x.txt, x.scale, x.bias, backend="dense")
    else:
        value = clip_loss(x.img, x.txt, x.scale, backend="dense")
    value.backward()
    return value.detach()


def _natural_size(truth: Inputs) -> float:
    features, grad = (torch.linalg.vector_norm(tensor.detach()) for tensor in (truth.img, truth.img.grad))
    return (features * grad / truth.scale).item()


def _distance(value: Tensor, truth: Tensor, least: float = 0.0) -> float:
    size = torch.linalg.vector_norm(truth).clamp_min(least)
    return (torch.linalg.vector_norm(value.double() - truth) / size).item()
