"""Where adapters belong in a model whose matrices have names of their own, and what has been adapted, in one line.

    Llama    q_proj k_proj v_proj o_proj        Phi-3    qkv_proj o_proj        GPT-2    c_attn attn.c_proj

Names are read from the model: matrices of the innermost modules whose class speaks of attention.
Taught in notebooks/13_train_logo_end_to_end.ipynb.
"""

from torch import nn

from minilib.trainers.lora import is_matrix


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


def adapted(model: nn.Module) -> str:
    """Which modules carry adapters, how many, and how many parameters train, in one line."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    paths = [path for path, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    names = dict.fromkeys(path.rpartition(".")[2] for path in paths)
    trained, every = model.get_nb_trainable_parameters()
    return f"adapters on {', '.join(names)}: {len(paths)} matrices, {trained:,} of {every:,} parameters train"
