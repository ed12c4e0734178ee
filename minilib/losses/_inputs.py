"""What every contrastive loss asks of its inputs, each refusal one sentence: argument, what came, what to do.

Proven in tests/test_bad_input_gets_one_sentence.py.
"""

import importlib.util
import math

import torch
from torch import Tensor

from minilib.kernels import tiled

BACKENDS = ("auto", "dense", "tiled", "fused", "ring")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check(img, txt, backend, tile_size, group, keep=0, grad_dtype=None) -> str:
    """Refuse what cannot be computed; return the backend that "auto" stands for."""
    _check_features("image_features", img)
    _check_features("text_features", txt)
    _check_pair(img, txt)
    _check_finite("image_features", img.detach())
    _check_finite("text_features", txt.detach())
    if tile_size is not None and (not isinstance(tile_size, int) or isinstance(tile_size, bool) or tile_size < 1):
        raise ValueError(f"tile_size is {tile_size!r}: give a positive whole number, or None for the default.")
    if not keep >= 0:
        raise ValueError(f"keep is {keep!r}: give the bytes to spend on kept tiles, 0 or more (math.inf keeps all).")
    if grad_dtype not in (None, torch.bfloat16):
        raise ValueError(f"grad_dtype is {grad_dtype!r}: give torch.bfloat16, or None for full precision.")
    dials = keep > 0 or grad_dtype is not None
    if backend == "fused" and dials:
        name, value = ("keep", keep) if keep else ("grad_dtype", grad_dtype)
        raise ValueError(f"{name} is {value!r} and backend 'fused': it is a dial of the tiled backend, choose 'tiled'.")
    if backend == "ring" and group is None:
        raise ValueError(
            "backend is 'ring' and group is None: pass group=torch.distributed.group.WORLD once the processes have "
            "met, or choose 'tiled'."
        )
    backend = resolve(backend)
    if backend == "fused":
        _check_fused(img)
    return backend


def resolve(backend: str) -> str:
    """What one process works with under a name; "auto" is tiled until the fused kernels have run on a card."""
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown: choose one of {', '.join(map(repr, BACKENDS))}.")
    return "tiled" if backend in ("auto", "ring") else backend


def kernels(backend: str):
    """The module of tile visits behind a backend; Triton is imported for the one that needs it."""
    if backend == "tiled":
        return tiled
    from minilib.kernels import fused

    return fused


def spans_ranks(group) -> bool:
    """Whether `group` is a process group of more than one rank."""
    if group is None:
        return False
    if not torch.distributed.is_available() or not isinstance(group, torch.distributed.ProcessGroup):
        raise TypeError(
            f"group is a {type(group).__name__}: give a process group of which this process is a member, such as "
            "torch.distributed.group.WORLD, or None."
        )
    return torch.distributed.get_world_size(group) > 1


def scalar(name: str, value: Tensor | float, like: Tensor) -> Tensor:
    """`value` as a 0-dim tensor beside the features, its gradient kept; fp32 beside half-precision features."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    value = value if isinstance(value, Tensor) else torch.tensor(value, dtype=dtype)
    if value.numel() != 1 or value.is_complex():
        raise ValueError(f"{name} has shape {tuple(value.shape)}: give one real number or a tensor of one element.")
    if not math.isfinite(value.item()):
        raise ValueError(f"{name} is {value.item()}: give a finite number (the exponential of the learned log scale).")
    return value.reshape(()).to(device=like.device, dtype=dtype)


def accumulation_dtype(*features: Tensor) -> list[Tensor]:
    """Half-precision features in fp32, in which all sums are accumulated; fp32 and fp64 as they are."""
    return [f if f.dtype in (torch.float64, torch.float32) else f.float() for f in features]


def check_ring(backend: str, keep: float, ranks: int) -> None:
    """Refuse what a ring of several ranks cannot do."""
    if ranks == 1:
        return
    if backend == "dense":
        raise ValueError(
            f"backend is 'dense' and group has {ranks} ranks: the dense loss sees the pairs of one process only, "
            "choose 'auto'."
        )
    if keep:
        raise ValueError(f"keep is {keep!r} and group has {ranks} ranks: a ring keeps no tiles, leave it at 0.")


def _check_fused(img: Tensor) -> None:
    if not importlib.util.find_spec("triton"):
        raise ValueError("backend is 'fused' but triton is not installed: pip install triton, or choose 'tiled'.")
    from minilib.kernels.launch import INTERPRETED

    if img.dtype == torch.float64:
        raise TypeError("image_features is torch.float64: the fused backend takes fp32, fp16 and bf16, choose 'tiled'.")
    if INTERPRETED and img.dtype == torch.bfloat16:
        raise TypeError(
            "image_features is torch.bfloat16: Triton's interpreter cannot multiply bf16, give fp32 or fp16 features."
        )
    if not INTERPRETED and img.device.type != "cuda":
        raise ValueError(
            f"image_features is on {img.device} and backend 'fused' needs a CUDA card: set TRITON_INTERPRET=1 before "
            "Python starts to run the kernels in Triton's interpreter, or choose 'tiled'."
        )


def _check_features(name: str, features: Tensor) -> None:
    if not isinstance(features, Tensor):
        raise TypeError(f"{name} is a {type(features).__name__}: give a torch tensor of shape (b, d).")
    if features.ndim != 2:
        raise ValueError(f"{name} has shape {tuple(features.shape)}: give a matrix (b, d), one row per pair.")
    if features.dtype not in DTYPES:
        raise TypeError(f"{name} has dtype {features.dtype}: give floating-point features, e.g. {name}.float().")
    if features.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(features.shape)}: the batch is empty, give at least one pair.")


def _check_finite(name: str, features: Tensor) -> None:
    if torch.isfinite(features.sum(1)).all():  # a row with NaN or infinity has such a sum: no (b, d) temporary
        return
    bad = ~torch.isfinite(features).all(1)
    if bad.any():
        row = int(bad.nonzero()[0, 0])
        raise ValueError(
            f"{name} has NaN or infinity in row {row} ({int(bad.sum())} such rows): mend the encoder that made it."
        )


def _check_pair(img: Tensor, txt: Tensor) -> None:
    if len(img) != len(txt):
        raise ValueError(
            f"image_features has {len(img)} rows and text_features {len(txt)}: row i of one must match row i of the "
            "other."
        )
    if img.shape[1] != txt.shape[1]:
        raise ValueError(
            f"image_features has width {img.shape[1]} and text_features {txt.shape[1]}: project both to one width."
        )
    if img.device != txt.device:
        raise ValueError(f"image_features is on {img.device} and text_features on {txt.device}: move one of them.")
    if img.dtype != txt.dtype:
        raise TypeError(f"image_features is {img.dtype} and text_features {txt.dtype}: cast one to the other's dtype.")
