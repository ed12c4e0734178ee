"""Where adapters belong in a model whose matrices have names of their own, and what has been adapted, in one line.

    Llama    q_proj k_proj v_proj o_proj        Phi-3    qkv_proj o_proj        GPT-2    c_attn attn.c_proj

Names are read from the model: matrices of the innermost modules whose class speaks of attention.
Taught in notebooks/13_train_logo_end_to_end.ipynb.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from torch import nn

from minilib.trainers.lora import is_matrix

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

WIDE = 256  # a rank that is let through for matrices of any size


def attention_modules(model: nn.Module) -> list[str]:
    """Names of the matrices in the model's attention, in order: those that `lora_config` takes as `modules`.

    A name that lies outside of attention as well, as GPT-2's c_proj, has its parent's before it. ValueError for a model
    without attention.
    """
    inside, outside = {}, set()
    blocks = [f"{path}." for path, module in model.named_modules() if "attention" in type(module).__name__.lower()]
    blocks = [block for block in blocks if sum(other.startswith(block) for other in blocks) == 1]  # the innermost
    for path, module in model.named_modules():
        if is_matrix(module) and not isinstance(module, nn.Embedding):
            parent, _, leaf = path.rpartition(".")
            if any(map(path.startswith, blocks)):
                inside.setdefault(leaf, f"{parent.rpartition('.')[2]}.{leaf}")
            else:
                outside.add(leaf)
    if not inside:
        raise ValueError(
            f"model is a {type(model).__name__} without attention: name the modules to adapt (lora_modules) out of "
            f"{', '.join(sorted(outside))}."
        )
    return [longer if leaf in outside else leaf for leaf, longer in inside.items()]


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


def adapted(model: nn.Module) -> str:
    """Which modules carry adapters, how many, and how many parameters train, in one line."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    paths = [path for path, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    names = dict.fromkeys(path.rpartition(".")[2] for path in paths)
    trained, every = model.get_nb_trainable_parameters()
    return f"adapters on {', '.join(names)}: {len(paths)} matrices, {trained:,} of {every:,} parameters train"
