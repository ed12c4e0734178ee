"""Watch a kernel of your own lane by lane: what each program loads and stores, and which lanes reach too far.

`watch` runs the Python function of a Triton kernel once per program, with a stand-in for `triton.language` that counts
in NumPy. Memory is a line of numbers for each tensor, so a lane that reaches outside is noted instead of reading what
lies there. It knows what the kernels of lesson 05 use: `program_id`, `num_programs`, `arange`, `load`, `store`, `sum`,
`zeros`, `dot`, `exp`, `exp2`, `maximum`, `minimum`, `where`, `cdiv`.

Used in notebooks/05_fuse_it_in_triton.ipynb; `plots.lane_use` draws what it returns.
"""

import itertools
import types
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor


@dataclass
class Access:
    """One load or store: who, where, and which lanes were on; `offsets` and `on` have one entry per lane."""

    kind: str
    program: tuple[int, ...]
    offsets: np.ndarray
    on: np.ndarray


@dataclass
class Memory:
    """The numbers of one tensor as a line of `width * rows`, and every access to them."""

    name: str
    values: np.ndarray
    width: int
    accesses: list[Access] = field(default_factory=list)

    def outside(self, access: Access) -> np.ndarray:
        """The offsets of lanes that were on and reached before the start or behind the end."""
        return access.offsets[access.on & ((access.offsets < 0) | (access.offsets >= len(self.values)))]


@dataclass
class Pointer:
    """What a kernel receives for a tensor: adding a number or a block of numbers moves it."""

    memory: Memory
    offsets: Any = 0

    def __add__(self, other: Any) -> "Pointer":
        return Pointer(self.memory, self.offsets + np.asarray(other))

    __radd__ = __add__


def watch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> list[Memory]:
    """Run `kernel[grid](*arguments, **constants)` on copies; the memory of each tensor argument, with its accesses.

    A kernel without a body touches nothing. ValueError when it uses something of Triton that is not known here.
    """
    function = getattr(kernel, "fn", kernel)
    language = _Language(grid)
    scope = {name: language if _is_triton_language(value) else value for name, value in function.__globals__.items()}
    copied = types.FunctionType(
        function.__code__, scope, function.__name__, function.__defaults__, function.__closure__
    )
    names = function.__code__.co_varnames
    given = [_memory(name, a) if isinstance(a, Tensor) else a for name, a in zip(names, arguments)]
    passed = [Pointer(a) if isinstance(a, Memory) else a for a in given]
    for language.program in itertools.product(*map(range, grid)):
        copied(*passed, **constants)
    return [a for a in given if isinstance(a, Memory)]


def _memory(name: str, tensor: Tensor) -> Memory:
    """A copy of the rows with whatever lies between them, up to the last number of the tensor."""
    rows, width = (1, len(tensor)) if tensor.ndim == 1 else (len(tensor), tensor.stride(0))
    line = np.zeros(rows * width)
    line.reshape(rows, width)[:, : tensor.shape[-1]] = tensor.detach().numpy()
    return Memory(name, line, width)


def _is_triton_language(value: Any) -> bool:
    return getattr(value, "__name__", "") == "triton.language"


class _Language:
    """The part of `triton.language` that the lesson uses, in NumPy."""

    constexpr, float32, int32, int64 = int, np.float64, np.int64, np.int64
    exp, exp2, maximum, minimum, where = map(staticmethod, (np.exp, np.exp2, np.maximum, np.minimum, np.where))

    def __init__(self, grid: tuple[int, ...]) -> None:
        self.grid, self.program = grid, (0,) * len(grid)

    def __getattr__(self, name: str) -> Any:
        raise ValueError(f"tl.{name} is not known to the picture of lanes, run the check instead.")

    def program_id(self, axis: int) -> int:
        return self.program[axis] if axis < len(self.program) else 0

    def num_programs(self, axis: int) -> int:
        return self.grid[axis] if axis < len(self.grid) else 1

    def arange(self, start: int, end: int) -> np.ndarray:
        return np.arange(start, end)

    def cdiv(self, a: int, b: int) -> int:
        return -(-a // b)

    def zeros(self, shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
        return np.zeros(shape)

    def sum(self, values: np.ndarray, axis: int | None = None) -> np.ndarray:
        return np.sum(values, axis)

    def dot(self, a: np.ndarray, b: np.ndarray, acc: Any = 0.0) -> np.ndarray:
        return acc + a @ b

    def load(self, pointer: Pointer, mask: Any = True, other: Any = 0.0) -> np.ndarray:
        offsets, inside = self._note("load", pointer, mask)
        return np.where(inside, pointer.memory.values[np.where(inside, offsets, 0)], other)

    def store(self, pointer: Pointer, value: Any, mask: Any = True) -> None:
        offsets, inside = self._note("store", pointer, mask)
        pointer.memory.values[offsets[inside]] = np.broadcast_to(value, offsets.shape)[inside]

    def _note(self, kind: str, pointer: Pointer, mask: Any) -> tuple[np.ndarray, np.ndarray]:
        offsets = np.asarray(pointer.offsets)
        on = np.broadcast_to(np.asarray(mask, dtype=bool), offsets.shape)
        memory = pointer.memory
        memory.accesses.append(Access(kind, self.program, offsets.ravel(), on.ravel()))
        return offsets, on & (offsets >= 0) & (offsets < len(memory.values))
