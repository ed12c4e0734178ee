"""How an exercise is checked: run the learner's function on one case after another and print one line.

An exercise is a dictionary of cases, from the words that describe a case to a function `learner -> None or hint`. The
first hint ends the check, so that the learner fixes one thing at a time. Three lines are possible, and they are the
same on every machine:

    Not attempted yet: ...    the function still raises NotImplementedError
    Not yet: ...              the failing case and what it suggests
    Passed: ...               the insight, in one sentence

A check never raises, so that an unsolved notebook runs to its end. With MINILIB_STRICT_CHECKS=1 in the environment the
first two lines are raised as AssertionError, for teachers who grade.

Judge: fp64, error at most 1e-8 of the largest entry unless the case says otherwise.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Case = Callable[[Callable], str | None]
MISSING = "the function returned None: is a return statement missing?"
CHANGED = "the function changed a tensor that it was given: compute new ones, the caller still needs the old"


def run(learner: Callable, cases: Mapping[str, Case], insight: str) -> None:
    """Print the one line that `learner` has earned, or raise it in strict mode."""
    line = verdict(learner, cases, insight)
    if os.environ.get("MINILIB_STRICT_CHECKS") == "1" and not line.startswith("Passed"):
        raise AssertionError(line)
    print(line)


def verdict(learner: Callable, cases: Mapping[str, Case], insight: str) -> str:
    """The line for `learner`: the first hint that a case gives, or the insight when none does."""
    for number, (where, case) in enumerate(cases.items()):
        try:
            hint = case(learner)
        except NotImplementedError as error:
            if number == 0:
                return "Not attempted yet: replace the line that raises NotImplementedError, then run this cell again."
            hint = _raised(error)
        except InputChangedError:
            hint = CHANGED
        except Exception as error:
            hint = _raised(error)
        if hint:
            return f"Not yet: {where}, {hint}."
    return f"Passed: {insight}."


class InputChangedError(Exception):
    """Raised by a function of `untouched` that wrote into a tensor of its caller."""


def untouched(learner: Callable) -> Callable:
    """`learner` with a look at its arguments after each call: none of their tensors may have changed."""

    def watched(*given: Any) -> Any:
        before = [tensor.detach().clone() for tensor in _tensors(given)]
        got = learner(*given)
        if not all(map(torch.equal, _tensors(given), before)):
            raise InputChangedError
        return got

    return watched


def compare(got: Any, want: Any, suspects: Mapping[str, Any] | None = None, tol: float = 1e-8) -> str | None:
    """None when `got` is `want`, else a hint.

    `suspects` maps a hint to the answer that a typical mistake gives: the first one that `got` equals is named.
    """
    if wrong := _shape_hint(got, want):
        return wrong
    if close(got, want, tol):
        return None
    for hint, answer in (suspects or {}).items():
        if close(got, answer, tol):
            return hint
    return _difference(got, want, tol)


def not_finite(got: Any, hint: str) -> str | None:
    """`hint` when an entry of `got` is infinite or NaN."""
    parts = got if isinstance(got, tuple | list) else (got,)
    return None if all(torch.isfinite(as_tensor(part)).all() for part in parts) else hint


def close(got: Any, want: Any, tol: float = 1e-8) -> bool:
    """Whether two numbers, tensors or tuples of them agree, relative to the largest entry of `want`."""
    if isinstance(want, tuple):
        return all(close(g, w, tol) for g, w in zip(got, want, strict=True))
    got, want = as_tensor(got), as_tensor(want)
    if got.shape != want.shape:
        return False
    finite = want[torch.isfinite(want)].abs()
    size = finite.max().item() if len(finite) else 1.0
    return torch.allclose(got, want, rtol=0.0, atol=tol * max(size, 1e-12))


def as_tensor(value: Any) -> Tensor:
    """Numbers and tensors alike as detached fp64 tensors."""
    return torch.as_tensor(value, dtype=torch.float64).detach()


class LargestTensor(TorchDispatchMode):
    """While active, remembers the number of elements of the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def _tensors(given: Any) -> Iterator[Tensor]:
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, tuple | list):
        for part in given:
            yield from _tensors(part)


def _shape_hint(got: Any, want: Any) -> str | None:
    if isinstance(want, tuple):
        if not isinstance(got, tuple | list) or len(got) != len(want):
            return f"the function returned {type(got).__name__} and should return a tuple of {len(want)} tensors"
        return next(filter(None, (_shape_hint(g, w) for g, w in zip(got, want, strict=True))), None)
    if got is None:
        return MISSING
    shape, wanted = tuple(as_tensor(got).shape), tuple(as_tensor(want).shape)
    return None if shape == wanted else f"the shape is {shape} and should be {wanted}"


def _difference(got: Any, want: Any, tol: float) -> str:
    if isinstance(want, tuple):
        wrong = next(k for k, (g, w) in enumerate(zip(got, want, strict=True)) if not close(g, w, tol))
        return f"of the returned tuple, entry {wrong}: " + _difference(got[wrong], want[wrong], tol)
    got, want = as_tensor(got), as_tensor(want)
    if torch.isfinite(want).all() and not torch.isfinite(got).all():
        return "the answer is not finite: did an exponential overflow, or inf meet inf?"
    if want.ndim == 0:
        return f"the answer is {got.item():.4g} and should be {want.item():.4g}"
    largest, size = (got - want).abs().max().item(), want.abs().max().item()
    return f"the largest difference is {largest:.3g}, where the largest entry is {size:.3g}"


def _raised(error: Exception) -> str:
    told = (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")
    return f"the function raised {type(error).__name__}: {told}"
