"""What the losses ask of their inputs: every error is one sentence that names the argument, what came and the fix.

Features are searched for NaN and infinity, because a contrastive loss mixes every row into every gradient. That is the
one check of a contrastive loss that waits for the device, once for all inputs (`check_finite`).
Log-probabilities may be NaN: trainers with loss scaling look for it in the gradients.
"""

import importlib.util
import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from minilib.kernels import held

BACKENDS = ("auto", "dense", "tiled", "fused", "ring")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


# Shared


def check_choice(name: str, value, known: Collection[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} {value!r} is unknown: choose one of {', '.join(map(repr, known))}.")


def resolve_backend(backend: str, known: tuple[str, ...] = BACKENDS, operand: Tensor | None = None) -> str:
    """What one process works with under a name; "auto" is fused where the kernels have proven right for `operand`."""
    check_choice("backend", backend, known)
    proven = backend == "auto" and operand is not None and held(operand)
    return "fused" if proven else "tiled" if backend in ("auto", "ring") else backend


def is_whole(value, least: int | None = 1) -> bool:
    """Whether `value` is a whole number, of at least `least` unless that is None; True and False are none here."""
    return isinstance(value, Integral) and not isinstance(value, bool) and (least is None or value >= least)


def check_numbers(values, *, counts=(), least=None, positive=()) -> None:
    """Whole numbers of 1 or more, or of their `least`, below 2^32; and positive finite numbers, by their names."""
    for name, smallest in {**dict.fromkeys(counts, 1), **(least or {})}.items():
        value = values[name]
        if not is_whole(value, smallest) or value >= 2**32:
            wanted = "a positive whole number" if smallest == 1 else f"a whole number of {smallest} or more"
            raise ValueError(f"{name} is {value!r}: give {wanted}{', below 2^32' if is_whole(value, 2**32) else ''}.")
    for name in positive:
        value = values[name]
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
            raise ValueError(f"{name} is {value!r}: give a positive finite number.")


def check_number(name: str, value) -> None:
    if not isinstance(value, (Real, Tensor)):
        raise TypeError(f"{name} is {value!r}: give a number, or a tensor of one element.")


def not_finite_error(message: str) -> ValueError:
    """A ValueError that a trainer can tell from others: numbers that were finite when it began are no longer."""
    error = ValueError(message)
    error.not_finite = True
    return error


def check_tile(name: str, size) -> None:
    if size is not None and not is_whole(size):
        raise ValueError(f"{name} is {size!r}: give a positive whole number, or None for the default.")


def check_alike(names: tuple[str, str], what: str, values: tuple[Any, Any], fix: str, error=ValueError) -> None:
    """Two inputs must agree; the sentence reads "a {what} 1 and b 2", where `what` is "is" or "has width"."""
    if values[0] != values[1]:
        raise error(f"{names[0]} {what} {values[0]} and {names[1]} {values[1]}: {fix}.")


def shape_of(value) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def check_matrix(name: str, matrix, shape: str) -> None:
    """A floating-point matrix; `shape` says what its rows and columns are."""
    if not isinstance(matrix, Tensor):
        raise TypeError(f"{name} is a {type(matrix).__name__}: give a torch tensor of shape {shape}.")
    if matrix.ndim != 2:
        raise ValueError(f"{name} has shape {tuple(matrix.shape)}: give a matrix {shape}.")
    if matrix.dtype not in DTYPES:
        raise TypeError(f"{name} has dtype {matrix.dtype}: give floating-point numbers, e.g. {name}.float().")


def check_fused(name: str, operand: Tensor) -> None:
    """The fused kernels need Triton, a dtype that they multiply, and a GPU or Triton's interpreter."""
    if not importlib.util.find_spec("triton"):
        raise ValueError("backend is 'fused' but triton is not installed: pip install triton, or choose 'tiled'.")
    from minilib.kernels.triton_launch import INTERPRETED

    if operand.dtype == torch.float64:
        raise TypeError(f"{name} is torch.float64: the fused backend takes fp32, fp16 and bf16, choose 'tiled'.")
    if INTERPRETED and operand.dtype == torch.bfloat16:
        raise TypeError(f"{name} is torch.bfloat16: Triton's interpreter cannot multiply bf16, give fp32 or fp16.")
    if not INTERPRETED and operand.device.type != "cuda":
        fix = "set TRITON_INTERPRET=1 before Python starts to run the kernels in Triton's interpreter, or choose "
        raise ValueError(f"{name} is on {operand.device} and backend 'fused' needs a CUDA GPU: {fix}'tiled'.")


# Contrastive losses


def check_contrastive(img, txt, backend, tile_size, group, cache_bytes="auto", grad_dtype=None) -> str:
    """Check features and options; return the backend that "auto" stands for."""
    names = "image_features", "text_features"
    for name, features in zip(names, (img, txt)):
        check_matrix(name, features, "(b, d), one row per pair")
        if features.numel() == 0:
            raise ValueError(f"{name} has shape {tuple(features.shape)}: the batch is empty, give at least one pair.")
    check_alike(names, "has", (f"{len(img)} rows", f"{len(txt)} rows"), "row i of one must match row i of the other")
    check_alike(names, "has width", (img.shape[1], txt.shape[1]), "project both to one width")
    check_alike(names, "is", (f"on {img.device}", f"on {txt.device}"), "move one of them")
    check_alike(names, "is", (img.dtype, txt.dtype), "cast one to the other's dtype", TypeError)
    _check_options(backend, tile_size, group, cache_bytes, grad_dtype)
    only_tiled = cache_bytes not in ("auto", 0) or grad_dtype is not None
    backend = resolve_backend(backend, operand=None if only_tiled else img)
    if backend == "fused":
        check_fused("image_features", img)
    return backend


def _check_options(backend, tile_size, group, cache_bytes, grad_dtype) -> None:
    check_tile("tile_size", tile_size)
    is_bytes = isinstance(cache_bytes, (int, float)) and not isinstance(cache_bytes, bool) and cache_bytes >= 0
    if cache_bytes != "auto" and not is_bytes:
        fix = "give the bytes of tiles to cache, 0 or more (math.inf: all), or 'auto'"
        raise ValueError(f"cache_bytes is {cache_bytes!r}: {fix}.")
    if grad_dtype not in (None, torch.bfloat16):
        raise ValueError(f"grad_dtype is {grad_dtype!r}: give torch.bfloat16, or None for full precision.")
    for name, value in (("cache_bytes", cache_bytes), ("grad_dtype", grad_dtype)):
        if backend == "fused" and value not in ("auto", 0, None):
            raise ValueError(f"{name} is {value!r} and backend 'fused': only the tiled backend has it, choose 'tiled'.")
    if backend == "ring" and group is None:
        fix = "pass group=torch.distributed.group.WORLD, or choose 'tiled'"
        raise ValueError(f"backend is 'ring' and group is None: {fix}.")


def check_ring(ring, images, texts, backend, tile_size, cache_bytes="auto", grad_dtype=None) -> str:
    """Check shards and options for a `LocalRing` or a `RingComm`; return the backend of each rank."""
    if not len(images) == len(texts) == ring.local_ranks:
        shards = f"images holds {len(images)} shards and texts {len(texts)}"
        raise ValueError(f"{shards}: give those of {ring.local_ranks} ranks.")
    several = f"and group has {ring.world_size} ranks"
    if ring.world_size > 1 and backend == "dense":
        fix = "the dense loss sees the pairs of one process only, choose 'auto'"
        raise ValueError(f"backend is 'dense' {several}: {fix}.")
    if ring.world_size > 1 and cache_bytes not in ("auto", 0):
        raise ValueError(f"cache_bytes is {cache_bytes!r} {several}: a ring caches no tiles, leave it out.")
    for img, txt in zip(images, texts):
        chosen = check_contrastive(img, txt, backend, tile_size, ring, cache_bytes, grad_dtype)
        check_transport(getattr(ring, "backends", None), img.device)
    return chosen


def check_transport(backends: dict[str, str] | None, device: torch.device) -> None:
    """Features must lie on a device from which the backends of a group, such as {"cpu": "gloo"}, can send."""
    if backends is None:  # threads of one process
        return
    kinds = ", ".join(f"{name} for {kind}" for kind, name in backends.items())
    came = f"group has {kinds} and the features are on {device}"
    if backends.get(device.type) is None:
        such = f"{device.type}, such as {'nccl' if device.type == 'cuda' else 'gloo'}"
        raise ValueError(f"{came}: make the group with a backend for {such}, or move the features.")
    if device.type == "cuda" and backends["cuda"] == "gloo":
        raise ValueError(f"{came}: gloo cannot send what lies on a GPU, make the group with nccl.")


def scalar(name: str, value: Tensor | float, like: Tensor) -> Tensor:
    """`value` as a 0-dim tensor on the device of the features, its gradient kept; fp32 for half-precision features."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    # A tensor keeps its place in the graph: the learned temperature gets its gradient through here.
    check_number(name, value)
    value = value if isinstance(value, Tensor) else torch.tensor(value, dtype=dtype)
    if value.numel() != 1 or value.is_complex():
        raise ValueError(f"{name} has shape {tuple(value.shape)}: give one real number or a tensor of one element.")
    return value.reshape(()).to(device=like.device, dtype=dtype)


def check_finite(**inputs: Tensor | None) -> None:
    """Features (b, d) and numbers must be finite, by their names; the host waits for the device once for all."""
    given = {name: x.detach() for name, x in inputs.items() if x is not None}
    # A row with NaN or infinity has such a sum: no (b, d) temporary.
    if torch.stack([x.sum(-1).isfinite().all() for x in given.values()]).all():
        return
    # Only now the slow look: a sum may overflow though every number is finite.
    for name, x in given.items():
        bad = (~torch.atleast_2d(x).isfinite()).any(1).nonzero()[:, 0]
        if len(bad) and x.ndim == 0:
            fix = "give a finite number (the exponential of the learned log scale)"
            raise not_finite_error(f"{name} is {x.item()}: {fix}.")
        if len(bad):
            came = f"{name} has NaN or infinity in row {int(bad[0])} ({len(bad)} such rows)"
            raise not_finite_error(f"{came}: fix the encoder that made it.")


# Log-probabilities


def check_logps(hidden, weight, labels, backend, chunk_size) -> str:
    """Check hidden states, head and labels; return the backend that "auto" stands for."""
    check_choice("backend", backend, BACKENDS[:-1])
    check_tile("chunk_size", chunk_size)
    check_matrix("hidden", hidden, "(n, d), one row per token")
    check_matrix("weight", weight, "(V, d), one row per vocabulary entry")
    if weight.numel() == 0:
        raise ValueError(f"weight has shape {tuple(weight.shape)}: give the head of a model, (V, d).")
    both, widths = ("hidden", "weight"), (hidden.shape[1], weight.shape[1])
    check_alike(both, "has width", widths, "give the head of the model that made the hidden states")
    _check_labels(labels, len(hidden), len(weight))
    for name, tensor in (("weight", weight), ("labels", labels)):
        check_alike(("hidden", name), "is", (f"on {hidden.device}", f"on {tensor.device}"), "move one of them")
    # A frozen head costs the tiled backend two products and the fused one three.
    fits = hidden.dtype == weight.dtype and weight.requires_grad
    backend = resolve_backend(backend, operand=hidden if fits else None)
    if backend == "fused":
        check_alike(both, "is", (hidden.dtype, weight.dtype), "cast one of them, or choose 'tiled'", TypeError)
        check_fused("hidden", hidden)
    return backend


def _check_labels(labels, rows: int, entries: int) -> None:
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels is a {type(labels).__name__}: give a torch tensor of token ids, one for each row.")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels has dtype {labels.dtype}: give token ids, labels.long().")
    if labels.shape != (rows,):
        raise ValueError(f"labels has shape {tuple(labels.shape)} and hidden {rows} rows: give one label for each row.")
    # torch's losses skip the label -100 too.
    bad = (((labels < 0) & (labels != -100)) | (labels >= entries)).nonzero()[:, 0]
    if len(bad):
        at = int(bad[0])
        came = f"labels has {int(labels[at])} at position {at} and the vocabulary {entries} entries"
        raise ValueError(f"{came}: give token ids of 0 to {entries - 1}, or -100 for a row that is not scored.")


def check_answers(answer: Tensor, count: int, num_rejected: int) -> int:
    """Answers must be numbered without gaps; returns the number of examples."""
    if not is_whole(num_rejected):
        raise ValueError(f"num_rejected is {num_rejected!r}: give the number M of rejected answers, at least 1.")
    if not isinstance(answer, Tensor) or answer.is_floating_point() or answer.shape != (count,):
        came = f"answer is {shape_of(answer)} and hidden has {count} rows to score"
        raise ValueError(f"{came}: give each row its answer's number.")
    if count == 0 or answer.min() < 0:
        raise ValueError("answer is empty or below 0: number the answers of the batch from 0, the chosen one first.")
    # An answer without tokens has no mean; a wrong M shows as a last example with too few answers.
    each = 1 + num_rejected
    examples = int(answer.max()) // each + 1
    empty = (answer.bincount(minlength=examples * each) == 0).nonzero()
    if len(empty):
        came = f"answer {int(empty[0])} has no tokens (each example has {each} answers)"
        raise ValueError(f"{came}: leave out its example, or correct num_rejected.")
    return examples


# Preference losses


def check_pair(chosen, rejected, name: str = "chosen", other: str = "rejected") -> Tensor:
    """Log-probabilities must be `(b,)` and `(b, M)`; returns the rejected side as `(b, M)`, M = 1 for a vector."""
    for what, tensor in ((name, chosen), (other, rejected)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{what} is a {type(tensor).__name__}: give a torch tensor of log-probabilities.")
        if not tensor.is_floating_point():
            raise TypeError(f"{what} has dtype {tensor.dtype}: give log-probabilities, floating-point numbers.")
    if chosen.ndim != 1 or len(chosen) == 0:
        raise ValueError(f"{name} has shape {tuple(chosen.shape)}: give one log-probability for each example, (b,).")
    columns = rejected[:, None] if rejected.ndim == 1 else rejected
    if columns.ndim != 2 or len(columns) != len(chosen) or columns.shape[1] == 0:
        came = f"{other} has shape {tuple(rejected.shape)} and {name} {tuple(chosen.shape)}"
        raise ValueError(f"{came}: give M log-probabilities for each example, (b, M).")
    return columns


def check_same_shape(a, b, name: str = "rejected", other: str = "reference_rejected") -> None:
    if not isinstance(a, Tensor) or shape_of(a) != shape_of(b):
        raise ValueError(f"{name} is {shape_of(a)} and {other} {shape_of(b)}: give two tensors of one shape.")


def check_ranking(scores, rewards) -> None:
    """A ranking has two answers or more, and rewards that fall from each answer to the next."""
    check_same_shape(scores, rewards, "scores", "rewards")
    if scores.ndim != 2 or len(scores) == 0 or scores.shape[1] < 2:
        raise ValueError(f"scores has shape {tuple(scores.shape)}: give at least two answers for each example, (b, n).")
    ties = (rewards.diff(dim=1) >= 0).nonzero()
    if len(ties):
        row, place = ties[0].tolist()
        came = f"rewards does not fall from answer {place} to answer {place + 1} of row {row}"
        raise ValueError(f"{came}: sort the answers from best to worst and drop ties.")


def check_settings(**settings: float) -> None:
    """beta must be above 0, gamma and sft_weight 0 or more, all of them finite."""
    # Written so that NaN, which compares with nothing, fails as well.
    for name, value in settings.items():
        check_number(name, value)
        fits, wanted = (value > 0, "above 0") if name == "beta" else (value >= 0, "of 0 or more")
        if not fits or math.isinf(value):
            raise ValueError(f"{name} is {value!r}: give a finite number {wanted}.")


def check_deviations(released: Collection[str], num_rejected: int, known: tuple[str, ...] = ("negatives",)) -> None:
    """Deviations of the released trainer must be known, and "negatives" needs two rejected answers."""
    if isinstance(released, str) or any(name not in known for name in released):
        raise ValueError(f"released is {released!r}: give a set of {', '.join(map(repr, known))}, or nothing.")
    if "negatives" in released and num_rejected != 2:
        came = f"released holds 'negatives' and there are {num_rejected} rejected answers"
        raise ValueError(f"{came}: the released trainer knows two.")


def check_weights(weights, examples: int, num_rejected: int) -> Tensor:
    """Weights must be M numbers of 0 or more, for all or for each example; returns shares `(b or 1, M)`."""
    if shape_of(weights) not in ((num_rejected,), (1, num_rejected), (examples, num_rejected)):
        there = f"there are {num_rejected} rejected answers for each of {examples} examples"
        raise ValueError(f"rejected_weights is {shape_of(weights)} and {there}: give a tensor (M,) or (b, M).")
    weights = weights.view(-1, num_rejected).double()
    if not ((weights >= 0).all() and (weights.sum(1) > 0).all() and weights.isfinite().all()):
        raise ValueError("rejected_weights holds no valid weights: give finite numbers of 0 or more, not all 0.")
    return weights / weights.sum(1, keepdim=True)
