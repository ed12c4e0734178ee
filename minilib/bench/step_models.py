"""The models that a training step is measured on, and the sizes of the step: a toy, a hundred million, eight billion.

    model   what it is                                       prompt   answers   positions to   where
    tiny    the trained model that comes with minilib         2,048       128         16,384   CPU, fp32
    100m    Llama of 12 layers, 768 wide, random weights        512        32          4,096   CPU, fp32
    8b      the architecture of Llama-3-8B, random weights    8,192       300         65,536   CUDA GPU, bf16

All carry LoRA of rank 32 on q, k, v and o, as LOGO does; nothing is downloaded, and random weights cost what trained
ones cost. The 8b model is checkpointed and takes the shared prompt through FlexAttention. "toy" is that of the gate.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minilib.trainers.lora import ATTENTION

RANK = 32  # of LoRA
LEAST_GPU = 70e9  # bytes of a GPU on which "auto" takes the 8b model


class Size(NamedTuple):
    """A step: tokens, the length that positions reach, how and where the model runs."""

    prompt: int
    answer: int
    target: int
    rounds: int
    device: str = "cpu"
    dtype: str = "float32"
    route: str = "auto"  # of the shared prompt, see `answer_hidden`
    checkpointing: bool = False


SIZES = {
    "tiny": Size(2048, 128, 16_384, rounds=5),
    "100m": Size(512, 32, 4096, rounds=3),
    "8b": Size(8192, 300, 65_536, rounds=5, device="cuda", dtype="bfloat16", route="flex", checkpointing=True),
}
SHAPES = {  # entries of the vocabulary, widths, layers, heads, heads of keys and values; 8b has a head of its own
    "toy": (512, 64, 128, 2, 4, 2),
    "100m": (32_000, 768, 2048, 12, 12, 4),
    "8b": (128_256, 4096, 14_336, 32, 32, 8, False),
}


def chosen(model: str) -> str:
    """The model that "auto" stands for; ValueError of one sentence for one that cannot run here."""
    if model == "auto":
        large = torch.cuda.is_available() and torch.cuda.get_device_properties(0).total_memory >= LEAST_GPU
        return "8b" if large else "tiny"
    if model not in SIZES:
        raise ValueError(f"model is {model!r}: choose one of 'auto', {', '.join(map(repr, SIZES))}.")
    if SIZES[model].device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"model is {model!r} and torch finds no CUDA GPU here: choose 'tiny' or '100m'.")
    return model


def build(
    model: str, *, device: str = "cpu", dtype: str = "float32", checkpointing: bool = False, target: int = 0,
    plain: bool = False,
):  # fmt: skip
    """The model under LoRA, made on its device and ready to train; `target` is the length that it is told of.

    `plain` takes the few lines of `PlainLora` in place of peft, as a machine without peft does (`adapters`).
    """
    if model == "tiny":
        from minilib.models.tiny_lm import tiny_lm

        base = tiny_lm()[0].to(device)
    else:
        base = random_llama(SHAPES[model], target, device, dtype)
    torch.manual_seed(0)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # new names for old switches
        adapted = _with_peft(base) if adapters(plain) == "peft" else _with_plain_lora(base)
        if checkpointing:
            adapted.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return adapted.train()


def adapters(plain: bool = False) -> str:
    """Whose LoRA the steps have: "peft", or "our own" where that is asked for or peft cannot be imported."""
    try:
        import peft  # noqa: F401
    except Exception:  # it may be missing, or meet another transformers than its own
        plain = True
    return "our own" if plain else "peft"


class PlainLora(nn.Module):
    """W x + (alpha / r) B A x around a frozen W, A and B in fp32 as peft has them, both random (see `_with_peft`)."""

    def __init__(self, base: nn.Linear, rank: int = RANK, alpha: float = 16):
        super().__init__()
        self.base, self.factor = base, alpha / rank
        new = {"dtype": torch.float32, "device": base.weight.device}
        self.a = nn.Parameter(torch.randn(rank, base.in_features, **new) / base.in_features**0.5)  # (r, in)
        self.b = nn.Parameter(torch.randn(base.out_features, rank, **new) / rank**0.5)  # (out, r)

    def forward(self, x: Tensor) -> Tensor:
        """Inputs `(..., in)` to outputs `(..., out)`."""
        return self.base(x) + (self.factor * (x.to(self.a.dtype) @ self.a.T @ self.b.T)).to(x.dtype)


def _with_plain_lora(base):
    base.requires_grad_(False)
    for module in list(base.modules()):
        for name in ATTENTION:
            if isinstance(getattr(module, name, None), nn.Linear):
                setattr(module, name, PlainLora(getattr(module, name)))
    return base


def _with_peft(base):
    from peft import get_peft_model

    from minilib.trainers.lora import lora_config

    config = lora_config(rank=RANK)
    config.init_lora_weights = False  # zeros at the start would hide half of the gradients from the gate
    return get_peft_model(base, config)


def random_llama(shape: tuple[int, ...], positions: int, device: str = "cpu", dtype: str = "float32"):
    """A Llama with random weights, made on its device; `shape` as in `SHAPES`, its head tied unless that ends False."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("num_key_value_heads", "tie_word_embeddings")
    options = {"tie_word_embeddings": True} | dict(zip(names, shape))
    rope = {"rope_type": "default", "rope_theta": 500_000.0}
    config = LlamaConfig(**options, max_position_embeddings=max(positions, 2048), rope_parameters=rope)
    torch.manual_seed(0)
    with torch.device(device):  # eight billion numbers are drawn where they stay
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation="sdpa")
