"""Answers by any causal language model of transformers, as a plain function from prompts to strings.

    answer(prompts)_i = the tokens that greedy decoding adds to prompt i, up to <eos> or `max_new_tokens`

Prompts of unlike length share a batch by padding on the left, which the attention mask hides, so an answer does not
depend on who else was asked. Batches are cut by tokens: one long prompt weighs as much as many short ones. The released
code of LOGO (arXiv 2410.18533) draws at temperature 0.7, and so does this one when asked to.
Taught in notebooks/11_make_chosen_and_rejected_answers.ipynb.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm


def make_answer_fn(
    model: nn.Module,
    tokenizer: Callable,
    *,
    max_new_tokens: int = 8,
    batch_tokens: int = 16_384,
    temperature: float = 0.0,
    progress: bool = False,
) -> Callable[[list[str]], list[str]]:
    """A function from a list of prompts to as many answers, without blanks at either end.

    batch_tokens: prompt tokens, padding included, that are computed at a time; it bounds the memory.
    temperature: 0 takes the likeliest token; above it tokens are drawn with torch's global generator.
    """
    for name, value, least in (("max_new_tokens", max_new_tokens, 1), ("batch_tokens", batch_tokens, 1)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}: pass a larger one.")
    if temperature < 0:
        raise ValueError(f"temperature must not be negative, got {temperature}: 0 takes the likeliest token.")
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}

    @torch.no_grad()
    def answer(prompts: list[str]) -> list[str]:
        ids = [tokenizer.encode(prompt) for prompt in prompts]
        if (empty := next((i for i, one in enumerate(ids) if not one), None)) is not None:
            raise ValueError(f"prompts[{empty}] has no tokens, got {prompts[empty]!r}: leave it out.")
        texts, mode = [""] * len(ids), model.training
        model.eval()
        try:
            for rows in tqdm(_batches(ids, batch_tokens), desc="answers", disable=not progress):
                for i, text in zip(rows, _complete(model, tokenizer, [ids[i] for i in rows], max_new_tokens, sampling)):
                    texts[i] = text
        finally:
            model.train(mode)
        return texts

    return answer


def _batches(ids: list[list[int]], batch_tokens: int) -> list[list[int]]:
    """Row numbers, prompts of like length together, at most `batch_tokens` with padding (or one row)."""
    batches: list[list[int]] = []
    for i in sorted(range(len(ids)), key=lambda i: len(ids[i])):
        # Sorted upwards, the row that comes is the longest of its batch and sets the padded length.
        if not batches or (len(batches[-1]) + 1) * len(ids[i]) > batch_tokens:
            batches.append([])
        batches[-1].append(i)
    return batches


def _complete(model: nn.Module, tokenizer: Callable, ids: list[list[int]], max_new_tokens: int, sampling: dict) -> list:
    """The answers to one batch of prompts, given as token ids."""
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    # Not tokenizer.pad: it wants a pad token, which the tokenizers of GPT-2 and Llama-3 do not have.
    rows, left = [torch.tensor(one) for one in ids], {"batch_first": True, "padding_side": "left"}
    inputs = pad_sequence(rows, padding_value=pad, **left).to(model.device)  # (b, t)
    mask = pad_sequence([torch.ones_like(row) for row in rows], **left).to(model.device)
    end = tokenizer.eos_token_id
    settings = {"max_new_tokens": max_new_tokens, "pad_token_id": pad, "eos_token_id": end, **sampling}
    out = model.generate(inputs, attention_mask=mask, **settings)
    return [text.strip() for text in tokenizer.batch_decode(out[:, inputs.shape[1] :], skip_special_tokens=True)]
