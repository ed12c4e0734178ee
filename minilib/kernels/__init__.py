"""Tensors in, tensors out: visits of the tiles of a logit matrix, without autograd and without models.

    contrastive_tiled    b x b logits of image-text pairs, plain torch          contrastive_fused    the same in Triton
    vocab_tiled          n x V logits of a language model's head                vocab_fused          the same in Triton

`triton_tiles` holds the jitted kernels, `triton_launch` their tile sizes and grids, `products` the matrix products that
follow. The Triton modules are imported where they are used, since not every machine has Triton.

`auto` is fused on the kinds of GPU that stand in `held_on.json`, by name, with the dtypes in which every fused kernel
has passed its gate against fp64 there, and the record that says so: {"NVIDIA H100 80GB HBM3": {"dtypes": ["bfloat16"],
"record": "on_a_gpu_h100.json"}}. `python -m minilib.bench.gpu.page` writes it from the committed records of
`python -m minilib bench gpu`.
"""

import json
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

HELD_ON = Path(__file__).with_name("held_on.json")


@cache
def gate_of(gpu: str) -> dict | None:
    """What the gate has shown on GPUs of this name; None where it has not been run, or not been passed."""
    return json.loads(HELD_ON.read_text(encoding="utf-8")).get(gpu)


def held(operand: Tensor) -> bool:
    """Whether the fused kernels have proven right on the kind of GPU that this tensor is on, in its dtype."""
    found = gate_of(torch.cuda.get_device_name(operand.device)) if operand.is_cuda else None
    return found is not None and str(operand.dtype).removeprefix("torch.") in found["dtypes"]


def contrastive_kernels(backend: str):
    """The module of tile visits behind "tiled" or "fused" for image-text pairs."""
    if backend == "tiled":
        from minilib.kernels import contrastive_tiled as kernels
    else:
        from minilib.kernels import contrastive_fused as kernels
    return kernels


def vocab_kernels(backend: str):
    """The module of tile visits behind "tiled" or "fused" for the logits of a language model."""
    if backend == "tiled":
        from minilib.kernels import vocab_tiled as kernels
    else:
        from minilib.kernels import vocab_fused as kernels
    return kernels
