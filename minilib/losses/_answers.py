"""What the preference losses ask of their log-probabilities, each refusal one sentence.

Proven in tests/test_preference_losses_equal_their_formulas.py.
"""

import math
from collections.abc import Collection

from torch import Tensor


def check_pair(chosen, rejected, name: str = "chosen", other: str = "rejected") -> Tensor:
    """Refuse what is no `(b,)` beside `(b, M)`; return the rejected side as `(b, M)`, M = 1 for a vector."""
    for what, tensor in ((name, chosen), (other, rejected)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{what} is a {type(tensor).__name__}: give a torch tensor of log-probabilities.")
        if not tensor.is_floating_point():
            raise TypeError(f"{what} has dtype {tensor.dtype}: give log-probabilities, floating-point numbers.")
    if chosen.ndim != 1 or len(chosen) == 0:
        raise ValueError(f"{name} has shape {tuple(chosen.shape)}: give one log-probability for each example, (b,).")
    columns = rejected[:, None] if rejected.ndim == 1 else rejected
    if columns.ndim != 2 or len(columns) != len(chosen) or columns.shape[1] == 0:
        raise ValueError(
            f"{other} has shape {tuple(rejected.shape)} and {name} {tuple(chosen.shape)}: give M log-probabilities for "
            "each example, (b, M)."
        )
    return columns


def check_square(a, b, name: str = "rejected", other: str = "reference_rejected", decreasing: bool = False) -> None:
    """Refuse tables of unequal shape; for a ranking also fewer than two answers, or rewards that do not decrease."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.shape != b.shape:
        shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in (a, b)]
        raise ValueError(f"{name} is {shapes[0]} and {other} {shapes[1]}: give two tensors of one shape.")
    if not decreasing:
        return
    if a.ndim != 2 or len(a) == 0 or a.shape[1] < 2:
        raise ValueError(f"{name} has shape {tuple(a.shape)}: give at least two answers for each example, (b, n).")
    ties = (b.diff(dim=1) >= 0).nonzero()
    if len(ties):
        row, place = ties[0].tolist()
        raise ValueError(
            f"{other} does not fall from answer {place} to answer {place + 1} of row {row}: sort the answers from best "
            "to worst and drop ties."
        )


def check_settings(**settings: float) -> None:
    """Refuse a beta that is not above 0, a gamma or sft_weight below 0, and numbers that are none."""
    for name, value in settings.items():
        least = value > 0 if name == "beta" else value >= 0
        if not least or math.isinf(value):
            raise ValueError(
                f"{name} is {value!r}: give a finite number {'above 0' if name == 'beta' else 'of 0 or more'}."
            )


def check_deviations(released: Collection[str], num_rejected: int, known: tuple[str, ...] = ("negatives",)) -> None:
    """Refuse a deviation that is not known here, and the one of the negatives for other than two of them."""
    if isinstance(released, str) or any(name not in known for name in released):
        raise ValueError(f"released is {released!r}: give a set of {', '.join(map(repr, known))}, or nothing.")
    if "negatives" in released and num_rejected != 2:
        raise ValueError(
            f"released holds 'negatives' and there are {num_rejected} rejected answers: the released trainer knows two."
        )


def check_weights(weights, examples: int, num_rejected: int) -> Tensor:
    """Refuse weights that are not M numbers of 0 or more, for all or for each example; return shares `(b or 1, M)`."""
    shape = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
    if shape not in ((num_rejected,), (1, num_rejected), (examples, num_rejected)):
        raise ValueError(
            f"rejected_weights is {shape} and there are {num_rejected} rejected answers for each of {examples} "
            "examples: give a tensor (M,) or (b, M)."
        )
    weights = weights.view(-1, num_rejected).double()
    if not ((weights >= 0).all() and (weights.sum(1) > 0).all() and weights.isfinite().all()):
        raise ValueError(
            "rejected_weights holds no valid weights: give finite numbers of 0 or more, not all of them 0."
        )
    return weights / weights.sum(1, keepdim=True)
