"""A tiny random Llama with grouped heads for the tests of packing, and separate passes through it as the judge."""

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 61


def tiny_llama(dtype=torch.float64, seed=0, attention="sdpa", **settings):
    """Two layers, four heads that share two heads of keys and values; equal seeds give equal weights in every dtype.

    In fp64 the norms are torch's, because transformers' own compute in fp32 whatever the dtype.
    """
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        attn_implementation=attention,
        initializer_range=0.2,
        **settings,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ == "LlamaRMSNorm":
                norm = nn.RMSNorm(32, eps=config.rms_norm_eps) if dtype == torch.float64 else child
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                setattr(parent, name, norm)
    return model.to(dtype)


def causal_mask(length):
    """The explicit 4-D mask of plain causal attention, `(1, 1, L, L)`."""
    return torch.ones(length, length, dtype=torch.bool).tril()[None, None]


def separate_hidden(model, prompt, answers, positions):
    """The naive thing: one full pass per answer with an explicit causal mask; hidden states that predict its tokens."""
    hidden = []
    for answer in answers:
        ids = torch.cat([prompt, answer])
        pos = torch.cat([positions, positions[-1] + 1 + torch.arange(len(answer))])
        out = model.get_decoder()(
            input_ids=ids[None], position_ids=pos[None], attention_mask=causal_mask(len(ids)), use_cache=False
        )
        hidden.append(out.last_hidden_state[0, len(prompt) - 1 : -1])
    return torch.cat(hidden)


def logps(model, hidden, labels):
    """Log-probability of each label behind its hidden state."""
    return torch.log_softmax(model.lm_head(hidden), -1).gather(1, labels[:, None])[:, 0]


def value_and_gradients(model, make_hidden, labels):
    """The log-probabilities, and the gradients of an uneven sum of them with respect to every parameter."""
    values = logps(model, make_hidden(), labels)
    weights = torch.linspace(-1, 2, len(values), dtype=values.dtype)
    return values.detach(), torch.autograd.grad((weights * values).sum(), list(model.parameters()))
