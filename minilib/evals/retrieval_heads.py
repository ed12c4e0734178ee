"""Which attention heads fetch the needle, by two measures that differ by a factor of several.

    copy_score(h) = | distinct needle tokens x with  j(h, x) in needle  and  context[j(h, x)] = x | / | needle tokens |
    hit_share     = mean over answer tokens x of the share of heads with  j(h, x) in needle

where
    j(h, x)   the position of the context (what stands before the question) that head h looks at most before token x
    needle    the tokens of the asked facts' values; with needle="fact" those of their whole sentences

The first is the retrieval score of Wu et al. 2024, as in LOGO (arXiv 2410.18533, Appendix B) and the name of its Figure
1b; the second is what the authors' plotting code counts. Departure: the model is led through the gold answer instead of
its own, so that one that fails is measured at the same places.
Taught in notebooks/08_see_long_context_models_fail.ipynb.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minilib.data.facts import as_prompt


class HeadScores(NamedTuple):
    """`copy_score` (layers, heads), their mean over the ten best above 0.1, and the `hit_share`, all from 0 to 1."""

    copy_score: Tensor
    best_ten: float
    hit_share: float


@torch.no_grad()
def retrieval_heads(
    model: nn.Module, tokenizer: Callable, rows: Sequence[dict], *, needle: str = "value"
) -> HeadScores:
    """Both scores over haystack `rows` whose answer is a word of the context (kinds single, multi, shared).

    tokenizer: a fast one, which knows the characters behind every token. needle: "value" or "fact".
    """
    if needle not in ("value", "fact"):
        raise ValueError(f"needle {needle!r} is unknown: choose 'value' or 'fact'.")
    if not rows:
        raise ValueError("rows must hold at least one haystack, got none: pass some.")
    kernel, mode = model.config._attn_implementation, model.training
    model.eval()
    try:
        scores = [_score_row(model, tokenizer, row, needle, kernel) for row in rows]
    finally:
        model.set_attn_implementation(kernel)
        model.train(mode)
    copied = torch.stack([copied for copied, _ in scores]).mean(0)  # (layers, heads)
    best = copied.flatten().sort(descending=True).values[:10]
    best = best[best >= 0.1]
    return HeadScores(copied, best.mean().item() if len(best) else 0.0, sum(hit for _, hit in scores) / len(scores))


def _score_row(model: nn.Module, tokenizer: Callable, row: dict, needle: str, kernel: str) -> tuple[Tensor, float]:
    """The copy scores (layers, heads) of one haystack and its hit share."""
    coded = tokenizer(as_prompt(row["context"], row["question"]), return_offsets_mapping=True, add_special_tokens=False)
    ids, spans = coded["input_ids"], coded["offset_mapping"]
    context = sum(begin < len(row["context"]) for begin, _ in spans)  # tokens before the question
    inside = needle_tokens(row, spans[:context], needle)
    answer = [x for x in tokenizer.encode(row["answer"], add_special_tokens=False) if x in {ids[j] for j in inside}]
    if not answer:
        raise ValueError(
            f"the answer {row['answer']!r} stands in no asked fact: pass haystacks of kind single or multi."
        )
    looked = _most_looked_at(model, ids, answer, context, kernel)  # (answer, layers, heads)
    hits = torch.isin(looked, torch.tensor(inside, device=looked.device))
    tokens = torch.tensor(ids, device=looked.device)
    wanted = torch.tensor(answer, device=looked.device).view(-1, 1, 1)
    copies = hits & (tokens[looked] == wanted)
    distinct = torch.stack([copies[wanted.flatten() == x].any(0) for x in set(answer)]).sum(0)
    return (distinct / len({ids[j] for j in inside})).cpu(), hits.double().mean().item()


def needle_tokens(row: dict, spans: list[tuple[int, int]], needle: str) -> list[int]:
    """Indices of the context's tokens that hold a character of the needle; `spans` are the tokens' (begin, end)."""
    found = []
    for fact in row["facts"]:
        if fact["asked"]:
            begin, end = fact["start"], fact["end"]
            if needle == "value":
                begin += fact["text"].rindex(fact["value"])
                end = begin + len(fact["value"])
            found += [j for j, (a, b) in enumerate(spans) if a < end and b > begin]
    return found


def _most_looked_at(model: nn.Module, ids: list[int], answer: list[int], context: int, kernel: str) -> Tensor:
    """For each token of the answer, before it is read: the context position that each head attends to most."""
    prompt = torch.tensor([ids[:-1]], device=model.device)
    model.set_attn_implementation(kernel)
    cache = model(input_ids=prompt, attention_mask=torch.ones_like(prompt), use_cache=True, logits_to_keep=1)
    cache, looked = cache.past_key_values, []
    model.set_attn_implementation("eager")  # the kernel that hands out its attention
    for seen, token in enumerate([ids[-1], *answer[:-1]], start=len(ids)):
        step = torch.tensor([[token]], device=model.device)
        mask = torch.ones(1, seen, dtype=torch.long, device=model.device)
        out = model(input_ids=step, attention_mask=mask, past_key_values=cache, use_cache=True, output_attentions=True)
        rows = torch.stack([layer[0, :, -1, :context] for layer in out.attentions])  # (layers, heads, context)
        looked.append(rows.argmax(-1))
    return torch.stack(looked)
