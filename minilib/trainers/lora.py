"""LoRA on a language model by peft, set as LOGO has it, and how far the adapters have moved the model.

    W' = W + (alpha / r) B A,        A (r, in), B (out, r), B = 0 at the start

where
    W      a frozen matrix: the projections of attention and, by wish, the token embeddings
    r      rank, 32 in LOGO's scripts; alpha = 16

    |delta|_F^2 = sum over adapted matrices of (alpha / r)^2 tr[(B^T B)(A A^T)]        r x r products, no (out, in)

The paper adapts attention and token embeddings; the released code attention only, the default here, under the names of
Llama; `models.adapters` finds those of others. Learning rates of full fine-tuning hardly move an adapter of rank 32:
that is what the norm is for. Taught in notebooks/13_train_logo_end_to_end.ipynb.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig, PeftModel

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
WIDE = 256  # a rank that is let through for matrices of any size


def lora_config(
    *, rank: int = 32, alpha: float = 16, modules: Sequence[str] = ATTENTION, embeddings: bool = False,
    dropout: float = 0.0,
) -> LoraConfig:  # fmt: skip
    """peft's settings for the attention projections of Llama-like models, and for the token embeddings if wished."""
    from peft import LoraConfig

    targets = [*modules, *(["embed_tokens"] if embeddings else [])]
    return LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM")


def check_modules(model: nn.Module, names: Sequence[str], rank: int) -> None:
    """ValueError for a name that no matrix of the model ends in, and for a rank that no matrix could have."""
    matrices = {path: module for path, module in model.named_modules() if is_matrix(module)}
    known, widest = sorted({path.rpartition(".")[2] for path in matrices}), WIDE
    for name in names:
        fits = [module for path, module in matrices.items() if f".{path}".endswith(f".{name}")]
        if not fits:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}? It has" if near else "it has"
            told = f"lora_modules has {name!r}, which no matrix of the model is called: {hint} {', '.join(known)}."
            raise ValueError(told)
        widest = max(widest, *(min(module.weight.shape) for module in fits))
    if rank > widest:
        raise ValueError(f"lora_rank is {rank}, more than the adapted matrices can use: give at most {widest}.")


def with_adapters(model: nn.Module, peft_config: PeftConfig) -> PeftModel:
    """The model wrapped by peft; ValueError for target modules that it does not have."""
    from peft import get_peft_model

    names = getattr(peft_config, "target_modules", None)
    if isinstance(names, (list, set, tuple)):  # else a pattern of the user's
        check_modules(model, sorted(names), getattr(peft_config, "r", 0))
    return get_peft_model(model, peft_config)


def is_matrix(module: nn.Module) -> bool:
    """Whether the module is something that LoRA adapts."""
    return isinstance(module, (nn.Linear, nn.Embedding)) or type(module).__name__ == "Conv1D"  # the last: GPT-2's


@torch.no_grad()
def delta_norm(model: nn.Module) -> float | None:
    """The Frobenius norm of all that the active adapters add to the weights; None for a model without adapters."""
    if not hasattr(model, "peft_config"):
        return None
    from peft.tuners.lora import LoraLayer

    total = 0.0
    for layer in (module for module in model.modules() if isinstance(module, LoraLayer)):
        for name in layer.active_adapters:
            if name in layer.lora_A:
                a, b = layer.lora_A[name].weight, layer.lora_B[name].weight  # (r, in), (out, r)
            elif name in layer.lora_embedding_A:
                a, b = layer.lora_embedding_A[name], layer.lora_embedding_B[name]
            else:
                continue
            a, b = (x.full_tensor() if hasattr(x, "full_tensor") else x for x in (a, b))  # FSDP has cut them
            gram = (b.float().T @ b.float()) * (a.float() @ a.float().T)  # (r, r)
            total += layer.scaling[name] ** 2 * gram.sum().item()
    return max(total, 0.0) ** 0.5
