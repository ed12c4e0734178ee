"""Several questions about one long text, the text computed once: greedy answers behind a shared cache.

prompt k   prefix | tail_k             prefix: what all prompts begin with, the text with its front
cache      of the prefix, from one forward pass, then one copy for each question
answer k   greedy, all questions as one batch; tails of unlike length are padded between cache and tail
"""

from __future__ import annotations

import torch
from torch import nn

from minilib.longcontext.shared_prefix import new_cache
from minilib.longcontext.text_ids import prompt_ids, shared_start
from minilib.models.generation import PAD, end_ids

BLOCK = 2_048  # tokens of the prefix that are computed at a time, which bounds the memory


@torch.no_grad()
def answers_about(model: nn.Module, tokenizer, prompts: list[str], max_new_tokens: int) -> list[str]:
    """The greedy answer to each prompt; the fewer tokens their tails have, the cheaper."""
    ids = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    shared = min(len(shared_start(ids)), min(map(len, ids)) - 1)
    cache = new_cache(model)  # {name of the argument: an empty cache}
    for start in range(0, shared, BLOCK):
        part = torch.tensor([ids[0][start : min(start + BLOCK, shared)]], device=model.device)
        model(input_ids=part, use_cache=True, logits_to_keep=1, **cache)  # fills the cache
    if shared:
        next(iter(cache.values())).batch_repeat_interleave(len(ids))
    longest = max(map(len, ids))
    rows, masks = [], []
    for row in ids:
        gap = longest - len(row)
        rows.append(row[:shared] + [PAD] * gap + row[shared:])
        masks.append([1] * shared + [0] * gap + [1] * (len(row) - shared))
    inputs, mask = torch.tensor(rows, device=model.device), torch.tensor(masks, device=model.device)  # (b, t)
    ends = end_ids(tokenizer, getattr(model, "generation_config", None))
    told = model.generate(
        inputs, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=PAD,
        eos_token_id=ends or None, **(cache if shared else {}),
    )[:, longest:].tolist()  # fmt: skip
    cut = [row[: next((t for t, token in enumerate(row) if token in ends), len(row))] for row in told]
    return [text.strip() for text in tokenizer.batch_decode(cut, skip_special_tokens=True)]
