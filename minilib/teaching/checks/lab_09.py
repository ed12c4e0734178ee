"""Checks of lab 9, take fewer, bigger, later steps: a step per layer, and an average that arrives late."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minilib.teaching.checks.contract import MISSING, as_tensor, compare, run, untouched


def check_layer_steps(learner: Callable[[Sequence[Tensor], Sequence[Tensor], float], list]) -> None:
    """Exercise: `layer_steps(weights, updates, lr)`, the weights after a step normalised layer by layer."""
    cases = {
        "for two matrices of different size": lambda fn: _step(fn, [2.0, 0.1], [(3, 2), (2, 4)]),
        "for a matrix of zeros": lambda fn: _step(fn, [2.0, 0.0], [(3, 2), (2, 4)]),
        "with a logit scale, one number": lambda fn: _step(fn, [2.0, 5.0], [(3, 2), ()]),
        "for three tensors, an update of zeros and another learning rate": lambda fn: _step(
            fn, [2.0, 0.1, 3.0], [(3, 2), (2, 4), (5,)], lr=0.3, still=1
        ),
    }
    run(untouched(learner), cases, "each layer moves by the same fraction of itself, whatever the size of its gradient")


def check_apply_late(learner: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Exercise: `apply_late(local, sent, average)`, the local weights when the average of what was sent arrives."""
    cases = {
        "for one weight that moved from 1 to 4 while 10 was on its way": lambda fn: _late(fn, 4.0, 1.0, 10.0),
        "for an average that equals what was sent": lambda fn: _late(fn, 4.0, 1.0, 1.0),
    }
    run(untouched(learner), cases, "an average replaces what was sent, and the steps taken since are kept")


def _step(fn: Callable, sizes: list[float], shapes: list[tuple], lr: float = 0.1, still: int = -1) -> str | None:
    draw = torch.Generator().manual_seed(0)
    weights = [size * torch.randn(shape, generator=draw, dtype=torch.float64) for size, shape in zip(sizes, shapes)]
    updates = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]
    if still >= 0:
        updates[still].zero_()
    ratios = [
        float(w.norm() / u.norm()) if w.ndim and w.norm() > 0 < u.norm() else 1.0 for w, u in zip(weights, updates)
    ]
    whole = float(torch.stack([w.norm() for w in weights]).norm() / torch.stack([u.norm() for u in updates]).norm())
    bare = [float(w.norm() / u.norm()) for w, u in zip(weights, updates)]

    def stepped(factors):
        return tuple(w - lr * factor * u for w, u, factor in zip(weights, updates, factors))

    suspects = {
        "that is one ratio for the whole model: each tensor has its own": stepped([whole] * 3),
        "the ratio is upside down: it is the norm of the weights over the norm of the update": stepped(
            [1 / ratio for ratio in ratios]
        ),
    }
    if 0.0 in sizes:
        suspects = {"a tensor of zeros never moves: take ratio 1 where a norm is 0": stepped(bare)} | suspects
    elif () in shapes:
        suspects = {
            "the logit scale is normalised too, so it moves by a fixed share for ever": stepped(bare)
        } | suspects
    got = fn(weights, updates, lr)
    if got is None:
        return MISSING
    if still >= 0 and len(got) > still and torch.isnan(as_tensor(got[still])).any():
        return "a tensor turned to NaN, 0 times infinity: take ratio 1 where the norm of the update is 0"
    return compare(tuple(got), stepped(ratios), suspects)


def _late(fn: Callable, local: float, sent: float, average: float) -> str | None:
    local, sent, average = (torch.tensor([x], dtype=torch.float64) for x in (local, sent, average))
    suspects = {
        "the local weights are overwritten: what happened to the steps taken while it travelled?": average,
        "the average is ignored": local,
        "the average is added whole: only its difference to what was sent is news": local + average,
        "average and local weights are mixed: half of the progress is lost": (local + average) / 2,
    }
    return compare(fn(local, sent, average), average + local - sent, suspects)
