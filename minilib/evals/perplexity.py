"""Perplexity of running text by position: how surprised a model is, early in a long text and late in it.

    ppl(B) = exp( - mean_{t in B} log p(x_t | x_<t) ),      B: a bucket of neighbouring positions

p reads every document once from its beginning, with nothing cut off and no window sliding. Past a model's window the
curve turns up. The paper (LOGO, arXiv 2410.18533) slides a window over PG-19 and gives one figure for each length; a
figure for each position shows where it breaks. Taught in notebooks/08_see_long_context_models_fail.ipynb.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

import torch
from torch import nn
from torch.nn import functional as F

from minilib.data.haystack import hide_facts
from minilib.data.rows import positive_int
from minilib.data.running_text import token_counter
from minilib.longcontext.text_ids import prompt_ids


@torch.no_grad()
def perplexity_by_position(
    model: nn.Module,
    tokenizer: Callable,
    documents: Sequence[str] | None = None,
    *,
    length: int = 1024,
    bucket: int = 64,
    samples: int = 16,
    seed: int = 0,
) -> dict[int, float]:
    """Perplexity of running text, `{first position of a bucket: perplexity}`, over the first `length` tokens.

    documents: texts of your own; without them, `samples` pieces of the prose that `tiny_lm` has read in training.
    """
    positive_int(bucket, "bucket")
    if positive_int(length, "length") < 2:
        raise ValueError(f"length must be at least 2, got {length}: the first token is predicted by nothing.")
    if documents is None:
        measure = token_counter(tokenizer)
        documents = [
            hide_facts(Random(f"{seed}/{k}"), (), length=length + 64, measure=measure)["context"]
            for k in range(samples)
        ]
    total, count = torch.zeros(-(-length // bucket), dtype=torch.float64), torch.zeros(-(-length // bucket))
    for document in documents:
        ids = torch.tensor([prompt_ids(tokenizer, document)[:length]], device=model.device)  # (1, t)
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, :-1]
        loss = F.cross_entropy(logits.float(), ids[0, 1:], reduction="none").cpu()  # (t - 1,)
        place = torch.arange(1, len(loss) + 1) // bucket
        total.index_add_(0, place, loss.double())
        count.index_add_(0, place, torch.ones(len(loss)))
    return {i * bucket: math.exp(total[i] / count[i]) for i in range(len(total)) if count[i]}
