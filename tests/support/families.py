"""Every causal language model class of transformers that builds small: random weights, two layers or a few, width 32.

`small_model(name)` shrinks the configuration of a model type; `logps_alone` is the judge: a full pass of the model for
every answer by itself, without mask or positions unless they are given.
"""

import inspect

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from minilib.longcontext import pack_answers

VOCABULARY = 97
SMALL = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("attention_hidden_size", "lru_width"), 32),
    **dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim", "ffn_hidden_size", "n_inner", "ffn_hidden"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads", "num_heads"), 4),
    **dict.fromkeys(("attention_heads", "mamba_n_heads", "mamba_dt_rank", "time_step_rank"), 4),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 128),
    **dict.fromkeys(("head_dim", "rotary_dim", "state_size", "mamba_d_state", "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "kv_lora_rank"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "q_lora_rank", "mamba_d_head"), 16),
    **dict.fromkeys(("n_group", "topk_group", "mamba_n_groups", "encoder_layers"), 1),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "linear_num_key_heads"), 2),
    **dict.fromkeys(("sliding_window", "attention_window_size", "window_size"), 16),
    **{"linear_num_value_heads": 2, "vocab_size": VOCABULARY, "vocab_size_per_layer_input": VOCABULARY},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
WHOLE_HEADS = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}
# What a type needs besides.
OWN = {
    "bamba": {"attn_layer_indices": [1]},
    "deepseek_v2": {"num_key_value_heads": 4, "first_k_dense_replace": 1},
    "deepseek_v3": {"num_key_value_heads": 4, "first_k_dense_replace": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_heads": 4},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2, "use_mamba_kernels": False},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "falcon alibi": {"alibi": True},
    "falcon new": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "phi3 longrope": {
        "sliding_window": None, "max_position_embeddings": 128, "original_max_position_embeddings": 44,
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
            "original_max_position_embeddings": 44,
        },
    },
    "llama dynamic": {
        "max_position_embeddings": 32, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    },
    "llama yarn": {
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32
        }
    },
    **{name: {"rope_parameters": WHOLE_HEADS} for name in ("gpt_neox", "stablelm")},
    "gemma2 capped": {"final_logit_softcapping": 3.0},
    "gemma2 uncapped": {"final_logit_softcapping": None},
    "cohere2 unscaled": {"logit_scale": 1.0},
    "qwen2 sliding": {"use_sliding_window": True, "max_window_layers": 1},
}  # fmt: skip
CLASSES = {config.model_type: (config, model) for config, model in MODEL_FOR_CAUSAL_LM_MAPPING.items()}


def small_config(name, **changed):
    """The shrunken config of a model type, or of a variant of it such as "falcon alibi"."""
    kind = CLASSES[name.split()[0]][0]
    known = {*inspect.signature(kind.__init__).parameters, *getattr(kind, "__dataclass_fields__", ())}
    return kind(**({key: value for key, value in SMALL.items() if key in known} | OWN.get(name, {}) | changed))


def small_model(name, **changed):
    """A random model of this type, its silent parts filled so that all of it shows."""
    torch.manual_seed(0)
    model = CLASSES[name.split()[0]][1](small_config(name, **changed)).eval()
    for parameter in model.parameters():
        if not parameter.any():
            parameter.data.normal_(std=0.1)
    return model


def pack_and_rows(length, gap=0, vocabulary=VOCABULARY):
    """A pack of a prompt with answers of five and three tokens, `length` in all, and each answer's full sequence.

    The second half of the prompt lies `gap` positions further.
    """
    ids = torch.randint(3, vocabulary, (length,), generator=torch.Generator().manual_seed(length))
    prompt, answers = ids[:-8], (ids[-8:-3], ids[-3:])
    positions = torch.arange(length)
    positions[len(prompt) // 2 :] += gap
    rows = [torch.cat([prompt, answer]) for answer in answers]
    return pack_answers(prompt, answers, positions[: len(prompt)]), rows, positions if gap else None


@torch.no_grad()
def logps_alone(model, rows, prompt, positions=None):
    """Mean log-probability of each answer by the model's own logits, one full sequence at a time."""
    means = []
    for row in rows:
        inputs = {"input_ids": row[None]}
        if positions is not None:
            inputs |= {"position_ids": positions[None, : len(row)], "attention_mask": torch.ones_like(row)[None]}
        table = torch.log_softmax(model(**inputs).logits[0].double(), -1)[prompt - 1 : -1]
        means.append(table.gather(1, row[prompt:, None]).mean())
    return torch.stack(means)
